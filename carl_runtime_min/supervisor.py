"""The parent process: starts each phase, passes signals on, leaves no orphan."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from carl_runtime_min.errors import CarlError
from carl_runtime_min.run import read_json

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def supervise(command: list[str], path: Path, lock: int) -> int:
    """Run one phase in a process group of its own; return the code that it wrote.

    The first signal is passed on, so that the phase can checkpoint; a second one ends
    the group. On several GPUs the phase runs under torchrun.
    """
    gpus, launcher = torch.cuda.device_count(), [sys.executable]
    if gpus > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone"]
        launcher += ["--nproc_per_node", str(gpus)]
    (path / "exit.json").unlink(missing_ok=True)
    child = subprocess.Popen(
        launcher + command,
        env={**os.environ, "CARL_SUPERVISOR": str(os.getpid())},
        start_new_session=True,
        pass_fds=(lock,),
    )
    received = []

    def forward(number: int, frame: Any) -> None:
        received.append(number)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number if len(received) == 1 else signal.SIGKILL)

    for number in STOP_SIGNALS:
        signal.signal(number, forward)
    status = child.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # whatever the phase left behind
    report = read_json(path / "exit.json")
    asked = 130 if signal.SIGINT in received else 85
    if report is None:
        raise CarlError(
            f"the phase ended with status {status} (-9: killed, out of memory?)",
            remedy="run the same command again: it goes on from the last checkpoint",
            exit_code=asked if received else 70,
        )
    return 85 if received and report["code"] == 0 else int(report["code"])


class StopRequest:
    """A polite request to stop: a signal came, or the supervisor is gone."""

    def __init__(self) -> None:
        self.received, self.parent = 0, int(os.environ.get("CARL_SUPERVISOR", 0))
        for number in STOP_SIGNALS:
            signal.signal(number, self.note)

    def note(self, number: int, frame: Any) -> None:
        if self.received:
            os._exit(85)  # asked twice: at once; the last checkpoint is whole
        self.received = number

    def asked(self) -> bool:
        try:
            os.kill(self.parent or os.getpid(), 0)
        except ProcessLookupError:
            return True
        return bool(self.received)
