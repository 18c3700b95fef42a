"""A run whose host is lost goes on elsewhere, from its copy."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from backends.sshd import SSHD, serving

from carl_bundle.backends import hosts
from carl_bundle.cli.app import main
from carl_runtime_min.run import read_json

pytestmark = pytest.mark.xdist_group("processes")
SPEC = ["--method", "sft", "--set", "sft.per_device_train_batch_size=8"]
SPEC += ["--set", "sft.max_steps=40", "--set", "sft.save_steps=4"]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "state" / "carl" / "jobs"


def carl(capfd: pytest.CaptureFixture[str], *arguments: Any) -> str:
    capfd.readouterr()
    assert main([str(word) for word in arguments]) == 0, capfd.readouterr().err
    return capfd.readouterr().out


def started(capfd: pytest.CaptureFixture[str], *given: Any) -> str:
    return str(json.loads(carl(capfd, "train", *SPEC, "--json", *given))["id"])


def lose(job: Path) -> None:
    """What a host takes with it: every process of a job, at once, and its disk."""
    child = psutil.Process(read_json(job / "pid.json")["pid"])
    runner = child.parent()
    assert runner is not None
    runner.suspend()
    for process in (*runner.children(recursive=True), runner):
        os.kill(process.pid, signal.SIGKILL)
    psutil.wait_procs([runner, child], timeout=10)
    shutil.rmtree(job)


def test_a_run_whose_host_is_lost_ends_elsewhere_with_the_same_weights(
    state: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if SSHD is None:
        pytest.skip("there is no sshd: install openssh-server")
    whole = started(capfd)
    copies = tmp_path / "copies"
    job = started(capfd, "--destination", copies)
    manifest = copies / job / "MANIFEST.json"
    end = time.monotonic() + 240
    while not manifest.exists():
        assert time.monotonic() < end, carl(capfd, "logs", job)
        time.sleep(0.02)
    lose(state / job)
    assert "lost" in carl(capfd, "status", job)

    with serving(tmp_path / "sshd") as server:
        hosts.Ssh.__init__.__defaults__ = (server.options,)
        try:
            given = ("--compute", "ssh@127.0.0.1", "--python", sys.executable)
            carl(capfd, "resume", job, *given)
            again = json.loads(carl(capfd, "list", "--json"))["jobs"][-1]
            assert (again["resumes"], again["state"]) == (job, "succeeded")
            log = carl(capfd, "logs", again["id"])
            carl(capfd, "fetch", again["id"], "-o", "home")
        finally:
            hosts.Ssh.__init__.__defaults__ = ((),)
    assert "continuing after step" in log
    carl(capfd, "logs", "-f", whole)
    carl(capfd, "fetch", whole, "-o", "whole")
    for name in ("summary.json", "steps.jsonl"):
        one, other = (Path(x, "runs", "carl", name) for x in ("whole", "home"))
        assert one.read_text() == other.read_text()
    assert (copies / again["id"] / "model" / "model.safetensors").is_file()
