"""Jobs that Slurm starts: a real cluster of one node."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from backends import slurm
from backends.conftest import ended, until
from backends.test_hosts import SECRET, folder_of, shell, whole_log
from carl_bundle.backends.hosts import Here, HostBackend
from carl_bundle.backends.protocol import State
from carl_bundle.errors import RemoteError

pytestmark = pytest.mark.xdist_group("slurm")


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if found := slurm.missing():
        pytest.skip(f"Slurm is not here: {', '.join(found)}")
    with slurm.cluster(tmp_path_factory.mktemp("slurm")) as config:
        yield config


@pytest.fixture
def queue(conf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HostBackend:
    monkeypatch.setenv("SLURM_CONF", str(conf))
    monkeypatch.setenv("PATH", slurm.PATH)
    return HostBackend(Here(), str(tmp_path / "jobs"), ["--time=5"])


def test_a_job_runs_to_its_end(queue: HostBackend, tmp_path: Path) -> None:
    text = "mkdir -p runs; echo $SLURM_JOB_ID > runs/id; echo hello; exit 3"
    job = shell(text, secrets={"TOKEN": SECRET})
    ref = queue.submit(job)
    said = ended(queue, ref)
    assert (said.state, said.exit_code) == (State.FAILED, 3)
    assert whole_log(queue) == "hello\n"
    assert queue.fetch(ref, tmp_path / "home") == ["runs/id"]
    assert (tmp_path / "home" / "runs" / "id").read_text().strip().isdigit()
    assert not (folder_of(queue) / "secrets.json").exists()


def test_no_variable_of_ours_reaches_it(
    queue: HostBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "from the shell")
    job = shell("echo token $HF_TOKEN; echo $GIVEN", secrets={"GIVEN": SECRET})
    assert ended(queue, queue.submit(job)).state is State.SUCCEEDED
    assert whole_log(queue) == "token\n***\n"


def test_it_is_queued_once_and_waits_its_turn(queue: HostBackend) -> None:
    held = HostBackend(queue.transport, queue.root, ["--hold"])
    ref = held.submit(shell("echo once"))
    assert held.submit(shell("echo once")) == ref
    assert held.status(ref).state is State.QUEUED
    (folder_of(held) / "slurm.json").unlink()  # the answer of sbatch was lost
    held.submit(shell("echo once"))
    names = subprocess.run(
        ["squeue", "-h", "-o", "%k"], check=True, capture_output=True, text=True
    ).stdout.split()
    assert names == [f"carl:{folder_of(held)}"]
    held.stop(ref, 5)
    said = ended(held, ref)
    assert (said.state, said.raw) == (State.STOPPED, "CANCELLED")


def test_a_stop_checkpoints_and_a_resume_queues_it_again(queue: HostBackend) -> None:
    text = (
        "if [ -f checkpoint ]; then echo goes on; exit 0; fi\n"
        "trap 'touch checkpoint; exit 85' TERM\n"
        "echo begins; while true; do sleep 0.1; done"
    )
    ref = queue.submit(shell(text))
    until(queue, ref, lambda _: whole_log(queue) == "begins\n")
    assert queue.status(ref).state is State.RUNNING
    queue.stop(ref, 20)
    said = ended(queue, ref)
    assert (said.state, said.exit_code) == (State.STOPPED, 85)
    queue.restart(ref, {})
    assert ended(queue, ref).state is State.SUCCEEDED
    assert whole_log(queue).endswith("goes on\n")


def test_what_slurm_refuses_is_told_in_its_words(queue: HostBackend) -> None:
    bad = HostBackend(queue.transport, queue.root, ["--partition=nowhere"])
    with pytest.raises(RemoteError, match="invalid partition"):
        bad.submit(shell("true"))


def test_a_job_that_was_cancelled_by_hand_is_told_its_end(queue: HostBackend) -> None:
    ref = queue.submit(
        shell("trap 'exit 85' TERM; echo up; while :; do sleep 0.1; done")
    )
    until(queue, ref, lambda _: whole_log(queue) == "up\n")
    native = (folder_of(queue) / "slurm.json").read_text()
    number = "".join(filter(str.isdigit, native))
    subprocess.run(["scancel", "--full", number], check=True, env=os.environ)
    said = ended(queue, ref)
    assert (said.state, said.exit_code) == (State.PREEMPTED, 85)


def test_before_its_limit_it_checkpoints_and_goes_back_into_the_queue(
    queue: HostBackend,
) -> None:
    """Slurm tells at least 90 s before a limit of two minutes; no need to wait."""
    text = (
        "if [ -f checkpoint ]; then echo goes on; exit 0; fi\n"
        "trap 'touch checkpoint; exit 85' TERM\n"
        "echo begins; while true; do sleep 0.1; done"
    )
    ref = queue.submit(shell(text))
    until(queue, ref, lambda _: whole_log(queue) == "begins\n")
    number = "".join(filter(str.isdigit, (folder_of(queue) / "slurm.json").read_text()))
    subprocess.run(["scancel", "--signal=USR1", "--batch", number], check=True)
    until(queue, ref, lambda said: said.state is State.QUEUED)
    subprocess.run(
        ["scontrol", "update", f"JobId={number}", "StartTime=now"], check=True
    )
    said = ended_after(queue, ref)
    assert said.state is State.SUCCEEDED
    assert whole_log(queue).endswith("goes on\n")
    attempts = (folder_of(queue) / "attempts.jsonl").read_text().splitlines()
    assert [json.loads(line)["code"] for line in attempts] == [85]


def test_a_job_that_went_back_into_the_queue_can_be_taken_out(
    queue: HostBackend,
) -> None:
    ref = queue.submit(
        shell("trap 'exit 85' TERM; echo up; while :; do sleep 0.1; done")
    )
    until(queue, ref, lambda _: whole_log(queue) == "up\n")
    number = "".join(filter(str.isdigit, (folder_of(queue) / "slurm.json").read_text()))
    subprocess.run(["scancel", "--signal=USR1", "--batch", number], check=True)
    until(queue, ref, lambda said: said.state is State.QUEUED)
    queue.stop(ref, 5)
    assert ended(queue, ref).state is State.STOPPED


def ended_after(queue: HostBackend, ref: str) -> object:
    """A requeued job begins after two minutes at most."""
    return until(queue, ref, lambda said: said.state.is_end, wait=180)
