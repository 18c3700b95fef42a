"""One action in a process of its own, with a limit on its time and memory."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

MEMORY = 12 * 2**30  # bytes of address space; libraries alone take about 5


def isolated(action: Callable[[], int], log: Path, seconds: float) -> tuple[str, str]:
    """Run `action` in a fork: how it ended, in a word, and the reason if it failed.

    The words are runs, refused, fails, "out of time" and "out of memory". What the
    action prints goes to `log`, at whose end the reason is found.
    """
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _child(action, log)
    status = _wait(child, seconds)
    if status is None:
        return "out of time", f"not done after {seconds:.0f} s"
    if status == 0:
        return "runs", ""
    lines = log.read_text(errors="replace").strip().splitlines()
    for line, after in pairwise(lines):
        if line.startswith("error: ") and after.startswith("  fix: "):
            return "refused", f"{line[7:]} (fix: {after[7:]})"
    if any("MemoryError" in line or "can't allocate memory" in line for line in lines):
        return "out of memory", f"more than {MEMORY >> 30} GiB"
    return "fails", reason(lines) or f"ended by status {status}"


def reason(lines: list[str]) -> str:
    """The message of the last traceback in a log, in one line."""
    starts = [i for i, line in enumerate(lines) if line.startswith("Traceback")]
    after = lines[starts[-1] + 1 :] if starts else []
    first = next((i for i, line in enumerate(after) if line[:1].strip()), len(after))
    return " ".join(" ".join(after[first : first + 4]).split())[:300]


def _child(action: Callable[[], int], log: Path) -> None:
    """Never returns."""
    code = 70
    try:
        os.setsid()  # what it starts ends with it
        sys.stdout = sys.stderr = file = log.open("w")
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        code = action()
    except BaseException:  # whatever a model does
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
        os._exit(code)


def _wait(child: int, seconds: float) -> int | None:
    """The status of a child that ended in time; otherwise it is killed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        time.sleep(0.02)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None
