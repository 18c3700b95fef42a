"""The parent of a phase: signals, codes, and nothing left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from carl_runtime_min.errors import CarlError
from carl_runtime_min.supervisor import STOP_SIGNALS, asked_to_stop, supervise
from tests.scripts import signals_restored

ROOT = Path(__file__).parents[2]
PHASE = f"""
import json, os, signal, subprocess, sys, time
from pathlib import Path

sys.path.insert(0, {str(ROOT)!r})
here = Path(__file__).parent
parent = int(os.environ["CARL_SUPERVISOR"])

def report(code):
    (here / "exit.json").write_text(json.dumps({{"code": code}}))

def wait_for(condition):
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)

"""


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    with signals_restored():
        yield


def run_phase(folder: Path, body: str, *arguments: str, processes: int = 1) -> int:
    script = folder / "phase.py"
    script.write_text(PHASE + body)
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)
    try:
        return supervise([str(script), *arguments], folder, lock, processes)
    finally:
        os.close(lock)


def is_gone(pid: int) -> bool:
    for _ in range(300):
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.01)
                continue
        return True
    return False


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 70, 85])
def test_the_code_is_the_one_that_the_phase_wrote(tmp_path: Path, code: int) -> None:
    body = f"(here / 'args').write_text(repr(sys.argv[1:])); report({code})"
    assert run_phase(tmp_path, body, "--phase", "sft") == code
    assert (tmp_path / "args").read_text() == "['--phase', 'sft']"


def test_a_full_disk_that_cannot_be_reported_is_the_status(tmp_path: Path) -> None:
    assert run_phase(tmp_path, "sys.exit(4)") == 4


def test_a_report_of_an_earlier_phase_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "exit.json").write_text('{"code": 0}')
    with pytest.raises(CarlError, match="ended with status 9") as failed:
        run_phase(tmp_path, "sys.exit(9)")
    assert failed.value.exit_code == 70


def test_a_killed_phase_gets_a_message_and_a_way_on(tmp_path: Path) -> None:
    with pytest.raises(CarlError, match=r"status -9.*out of memory") as failed:
        run_phase(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    assert failed.value.exit_code == 70
    assert "same command again" in failed.value.remedy


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_the_first_signal_asks_the_phase_to_stop(tmp_path: Path, number: int) -> None:
    """Even one that comes while the libraries of the phase still load."""
    body = f"""
from carl_runtime_min.supervisor import asked_to_stop
assert not asked_to_stop(here)
os.kill(parent, {number:d})
wait_for(lambda: asked_to_stop(here))
report(85 if asked_to_stop(here) else 70)
"""
    assert run_phase(tmp_path, body) == 85


@pytest.mark.parametrize("accepts", [True, False])
def test_a_phase_survives_what_a_scheduler_sends_to_every_process(
    tmp_path: Path, accepts: bool
) -> None:
    body = f"""
from carl_runtime_min.supervisor import accept_signals
if {accepts}:
    accept_signals(here)
for number in {[int(number) for number in STOP_SIGNALS]}:
    os.kill(os.getpid(), number)
time.sleep(0.1)
report(0)
"""
    assert run_phase(tmp_path, body) == 0


def test_what_a_phase_starts_can_be_ended_by_a_signal(tmp_path: Path) -> None:
    """The pool of datasets' map ends its workers so, and waits for them."""
    body = """
from datasets import Dataset
from carl_runtime_min.supervisor import accept_signals

def wrong(row):
    raise ValueError("in the user's code")

signal.alarm(60)
accept_signals(here)
try:
    Dataset.from_list([{"x": 0}, {"x": 1}]).map(wrong, num_proc=2)
except ValueError:
    spawned = subprocess.Popen(["sleep", "60"])
    spawned.terminate()
    report(0 if spawned.wait() == -signal.SIGTERM else 70)
"""
    assert run_phase(tmp_path, body) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("processes", [1, 2])
def test_the_second_signal_ends_it_at_once(
    tmp_path: Path, number: int, processes: int
) -> None:
    body = f"""
from carl_runtime_min.supervisor import accept_signals
accept_signals(here)
(here / f"pid-{{os.getpid()}}").touch()
wait_for(lambda: len(list(here.glob("pid-*"))) == {processes})
if os.environ.get("RANK", "0") == "0":
    os.kill(parent, {number:d})
    wait_for((here / "stop").exists)
    os.kill(parent, {number:d})
time.sleep(60)
"""
    started = time.monotonic()
    with pytest.raises(CarlError) as ended:
        run_phase(tmp_path, body, processes=processes)
    assert time.monotonic() - started < 30
    assert ended.value.exit_code == 130
    pids = [int(path.name.removeprefix("pid-")) for path in tmp_path.glob("pid-*")]
    assert len(pids) == processes
    assert all(map(is_gone, pids))


def test_a_signal_after_the_phase_has_ended_is_no_error(tmp_path: Path) -> None:
    assert run_phase(tmp_path, "report(0)") == 0
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)
    assert (tmp_path / "stop").exists()  # so that no further phase starts


def test_nothing_that_a_phase_started_outlives_it(tmp_path: Path) -> None:
    body = """
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
(here / "child").write_text(str(child.pid))
report(0)
"""
    assert run_phase(tmp_path, body) == 0
    assert is_gone(int((tmp_path / "child").read_text()))


def test_a_phase_is_not_in_the_terminals_group(tmp_path: Path) -> None:
    """Ctrl-C reaches the supervisor alone, which passes it on once."""
    body = "(here / 'group').write_text(str(os.getpgrp())); report(0)"
    run_phase(tmp_path, body)
    assert int((tmp_path / "group").read_text()) != os.getpgrp()


def test_without_a_signal_nobody_is_asked_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CARL_SUPERVISOR", raising=False)
    assert not asked_to_stop(tmp_path)
    monkeypatch.setenv("CARL_SUPERVISOR", str(os.getpid()))
    assert not asked_to_stop(tmp_path)


def test_a_phase_whose_supervisor_is_gone_is_asked_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    monkeypatch.setenv("CARL_SUPERVISOR", str(dead.pid))
    assert asked_to_stop(tmp_path)
