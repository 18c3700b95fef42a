"""The parent of a phase: it passes on what a scheduler asks, and leaves no orphan."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from carl_runtime_min.errors import CarlError
from carl_runtime_min.run import read_json

PR_SET_PDEATHSIG = 1  # prctl(2)
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def supervise(command: list[str], path: Path, lock: int, processes: int) -> int:
    """Run one phase in a session of its own; return the exit code that it wrote.

    The first signal asks it, by the file `stop`, to checkpoint and end; the second ends
    it. Several processes run under torchrun. The child holds the descriptor `lock`.
    """
    launcher, report = [sys.executable], path / "exit.json"
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone"]
        launcher += ["--nproc_per_node", str(processes), "--signals_to_handle=SIGUSR2"]
    report.unlink(missing_ok=True)
    received = []

    def ask(number: int, frame: Any) -> None:
        received.append(number)
        (path / "stop").touch()
        if len(received) > 1:  # a signal that ends all, and that torchrun passes on
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGUSR2)

    # The child inherits the mask: what a scheduler sends to every process is for us.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    child = subprocess.Popen(
        launcher + command,
        env={**os.environ, "CARL_SUPERVISOR": str(os.getpid())},
        start_new_session=True,
        pass_fds=(lock,),
    )
    for number in STOP_SIGNALS:
        signal.signal(number, ask)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    status = child.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # whatever the phase left behind
    code = read_json(report).get("code", 4 if status == 4 else None)  # 4: a full disk
    if code is None:
        killed = " (killed: out of memory?)" * (status == -signal.SIGKILL)
        raise CarlError(
            f"the phase ended with status {status}{killed}",
            remedy="run the same command again: it goes on from the last checkpoint",
            exit_code=130 if received else 70,
        )
    return int(code)


def accept_signals(path: Path) -> None:
    """In a phase: what it starts is ended by a signal, and it goes on.

    Without a supervisor, as below a launcher, it is asked to stop by one. What a
    launcher has started dies with it.
    """
    alone = "CARL_SUPERVISOR" not in os.environ

    def ask(number: int, frame: Any) -> None:
        with contextlib.suppress(OSError):
            if alone:
                (path / "stop").touch()

    for number in STOP_SIGNALS:
        signal.signal(number, ask)
    obey = functools.partial(signal.signal, signal.SIGTERM, signal.SIG_DFL)
    if "RANK" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.register_at_fork(after_in_child=obey)  # as multiprocessing ends its pools
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def asked_to_stop(path: Path) -> bool:
    """Whether the supervisor of the run in `path` was told to stop, or is gone."""
    try:
        os.kill(int(os.environ.get("CARL_SUPERVISOR", os.getpid())), 0)
    except OSError:
        return True
    return (path / "stop").exists()
