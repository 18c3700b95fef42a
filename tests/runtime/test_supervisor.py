"""The parent of a phase: signals, codes, and nothing left behind."""

from __future__ import annotations

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
from carl_runtime_min.supervisor import STOP_SIGNALS, StopRequest, supervise

ROOT = Path(__file__).parents[2]
PHASE = """
import json, os, signal, subprocess, sys, time
from pathlib import Path

here = Path(__file__).parent
parent = int(os.environ["CARL_SUPERVISOR"])
received = []

def note(number, frame):
    received.append(number)

def report(code):
    (here / "exit.json").write_text(json.dumps({"code": code}))

def wait_for_signal():
    for _ in range(1000):
        if received:
            return
        time.sleep(0.01)

"""


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def run_phase(folder: Path, body: str, *arguments: str) -> int:
    script = folder / "phase.py"
    script.write_text(PHASE + body)
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)
    try:
        return supervise([str(script), *arguments], folder, lock)
    finally:
        os.close(lock)


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 70, 85])
def test_the_code_is_the_one_that_the_phase_wrote(tmp_path: Path, code: int) -> None:
    body = f"(here / 'args').write_text(repr(sys.argv[1:])); report({code})"
    assert run_phase(tmp_path, body, "--phase", "sft") == code
    assert (tmp_path / "args").read_text() == "['--phase', 'sft']"


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
def test_the_first_signal_reaches_the_phase(tmp_path: Path, number: int) -> None:
    body = f"""
signal.signal({number:d}, note)
os.kill(parent, {number:d})
wait_for_signal()
report(85 if received == [{number:d}] else 70)
"""
    assert run_phase(tmp_path, body) == 85


@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 85), ("SIGINT", 130)])
def test_the_second_signal_ends_it_at_once(
    tmp_path: Path, number: str, code: int
) -> None:
    body = f"""
signal.signal(signal.{number}, note)
os.kill(parent, signal.{number})
wait_for_signal()
os.kill(parent, signal.{number})
time.sleep(60)
"""
    started = time.monotonic()
    with pytest.raises(CarlError) as ended:
        run_phase(tmp_path, body)
    assert time.monotonic() - started < 30
    assert ended.value.exit_code == code


def test_a_signal_before_the_phase_listens_is_not_lost(tmp_path: Path) -> None:
    """The libraries of a phase take seconds to load."""
    body = """
os.kill(parent, signal.SIGTERM)
time.sleep(0.5)
from carl_runtime_min.supervisor import StopRequest
report(85 if StopRequest().asked() else 0)
"""
    assert run_phase(tmp_path, f"sys.path.insert(0, {str(ROOT)!r})\n{body}") == 85


def test_a_request_does_not_outlive_its_phase(tmp_path: Path) -> None:
    listening = """
signal.signal(signal.SIGTERM, note)
os.kill(parent, signal.SIGTERM)
wait_for_signal()
report(85)
"""
    assert run_phase(tmp_path, listening) == 85
    asked = "report(85 if Path(os.environ['CARL_STOP']).exists() else 0)"
    assert run_phase(tmp_path, asked) == 0


def test_a_phase_that_is_done_when_the_signal_comes_ends_the_run_too(
    tmp_path: Path,
) -> None:
    body = """
signal.signal(signal.SIGTERM, note)
os.kill(parent, signal.SIGTERM)
wait_for_signal()
report(0)
"""
    assert run_phase(tmp_path, body) == 85


def test_a_signal_after_the_phase_has_ended_is_no_error(tmp_path: Path) -> None:
    assert run_phase(tmp_path, "report(0)") == 0
    os.kill(os.getpid(), signal.SIGTERM)


def test_nothing_that_a_phase_started_outlives_it(tmp_path: Path) -> None:
    body = """
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
(here / "child").write_text(str(child.pid))
report(0)
"""
    assert run_phase(tmp_path, body) == 0
    pid = int((tmp_path / "child").read_text())
    gone = False
    for _ in range(200):
        gone = not psutil.pid_exists(pid) or (
            psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        )
        if gone:
            break
        time.sleep(0.01)
    assert gone


def test_a_phase_is_not_in_the_terminals_group(tmp_path: Path) -> None:
    """Ctrl-C reaches the supervisor alone, which passes it on once."""
    body = "(here / 'group').write_text(str(os.getpgrp())); report(0)"
    run_phase(tmp_path, body)
    assert int((tmp_path / "group").read_text()) != os.getpgrp()


def test_without_a_signal_nobody_is_asked_to_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CARL_SUPERVISOR", raising=False)
    assert not StopRequest().asked()
    monkeypatch.setenv("CARL_SUPERVISOR", str(os.getpid()))
    assert not StopRequest().asked()


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_signal_asks_a_phase_to_stop(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.delenv("CARL_SUPERVISOR", raising=False)
    stop = StopRequest()
    os.kill(os.getpid(), number)
    assert stop.asked()
    assert stop.asked()


def test_a_phase_whose_supervisor_is_gone_is_asked_to_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CARL_STOP", raising=False)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    monkeypatch.setenv("CARL_SUPERVISOR", str(dead.pid))
    assert StopRequest().asked()


def test_a_stop_file_asks_every_rank(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CARL_SUPERVISOR", raising=False)
    monkeypatch.setenv("CARL_STOP", str(tmp_path / "stop"))
    stop = StopRequest()
    assert not stop.asked()
    (tmp_path / "stop").touch()
    assert stop.asked()


def test_a_phase_asked_twice_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CARL_SUPERVISOR", raising=False)
    child = os.fork()
    if child == 0:
        StopRequest()
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 85
