"""The parent process: starts each phase, passes signals on, reports one exit code."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from carl_runtime_min.run import read_json


def worker_command(script: str, phase: str, arguments: list[str]) -> list[str]:
    """The command that runs `phase`: under torchrun when several GPUs are visible."""
    gpus = torch.cuda.device_count()
    launcher = [sys.executable]
    if gpus > 1 and "WORLD_SIZE" not in os.environ:
        launcher += ["-m", "torch.distributed.run", "--standalone"]
        launcher += ["--nproc_per_node", str(gpus)]
    return [*launcher, script, "--phase", phase, *arguments]


def supervise(command: list[str], run_path: Path, lock: int) -> int:
    """Run one phase to its end in a process group of its own.

    The first TERM, INT or USR1 is passed on, so that the phase can checkpoint; a
    second one kills the group. Nothing of the phase outlives this call.

    Returns:
        The code that rank 0 wrote to exit.json, or 70 if it could not.
    """
    (run_path / "exit.json").unlink(missing_ok=True)
    environment = {**os.environ, "CARL_SUPERVISOR": str(os.getpid())}
    child = subprocess.Popen(
        command, env=environment, start_new_session=True, pass_fds=(lock,)
    )
    received: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        kind = number if len(received) == 1 else signal.SIGKILL
        os.killpg(child.pid, kind)

    asked = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    previous = {number: signal.signal(number, forward) for number in asked}
    try:
        status = child.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # whatever the phase left behind
    report = read_json(run_path / "exit.json")
    if report is not None:
        return int(report["code"])
    print(
        f"error: the phase ended with status {status} and wrote no exit.json"
        + (" (killed: out of memory?)" if status == -signal.SIGKILL else ""),
        "  fix: run the same command again; it continues from the last checkpoint",
        sep="\n",
        file=sys.stderr,
    )
    return 130 if signal.SIGINT in received else 70


def end_with_supervisor() -> None:
    """Stop this process soon after its supervisor is gone, however that happened."""

    def watch(parent: int) -> None:
        while True:
            try:
                os.kill(parent, 0)
            except ProcessLookupError:
                os.kill(os.getpid(), signal.SIGTERM)
                return
            time.sleep(1.0)

    parent = os.environ.get("CARL_SUPERVISOR")
    if parent:
        threading.Thread(target=watch, args=(int(parent),), daemon=True).start()


class StopRequest:
    """Notes a polite request to stop; the second one ends the process at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: Any) -> None:
        if self.signal is not None:
            os._exit(130 if number == signal.SIGINT else 85)
        self.signal = number
