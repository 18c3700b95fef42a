"""The parent process: starts each phase, passes signals on, leaves no orphan."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from carl_runtime_min.errors import CarlError
from carl_runtime_min.run import read_json

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def supervise(command: list[str], path: Path, lock: int, processes: int = 1) -> int:
    """Run one phase in a process group of its own; return the code that it wrote.

    The first signal asks the phase to checkpoint and stop, a second one ends the group.
    Several processes run under torchrun, which passes no signal on without ending them:
    the stop file asks them, and torchrun itself is deaf.
    """
    launcher, asking = [sys.executable], path / "stop"
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone"]
        launcher += ["--nproc_per_node", str(processes), "--signals_to_handle=SIGQUIT"]
    (path / "exit.json").unlink(missing_ok=True)
    asking.unlink(missing_ok=True)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # inherited by torchrun
    child = subprocess.Popen(
        launcher + command,
        env={
            **os.environ,
            "CARL_SUPERVISOR": str(os.getpid()),
            "CARL_STOP": str(asking),
        },
        start_new_session=True,
        pass_fds=(lock,),
    )
    received = []

    def forward(number: int, frame: Any) -> None:
        received.append(number)
        asking.touch()
        if processes == 1 or len(received) > 1:
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
            f"the phase ended with status {status}"
            + " (killed: out of memory?)" * (status == -signal.SIGKILL),
            remedy="run the same command again: it goes on from the last checkpoint",
            exit_code=asked if received else 70,
        )
    return 85 if received and report["code"] == 0 else int(report["code"])


class StopRequest:
    """A polite request to stop: a signal, the stop file, or the supervisor is gone."""

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
        return bool(self.received) or Path(os.environ.get("CARL_STOP", "-")).exists()
