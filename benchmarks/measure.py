"""Timing by turns, so that a busy machine slows every candidate alike."""

from __future__ import annotations

import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path


def by_turns(
    candidates: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, float]:
    """Median processor seconds of each candidate; a first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(rounds + 1):
        for name, candidate in candidates.items():
            started = time.process_time()
            candidate()
            if turn > 0:
                seconds[name].append(time.process_time() - started)
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def spent(command: list[str], folder: Path, environment: dict[str, str]) -> float:
    """Processor seconds, user and system, of a program and what it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(command, cwd=folder, env=environment, check=True, **options)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def conclude(checks: Mapping[str, bool]) -> int:
    """Print each stated limit and whether it was kept; 1 if one was not."""
    for limit, kept in checks.items():
        print(f"{'ok    ' if kept else 'MISSED'}  {limit}")
    return 0 if all(checks.values()) else 1
