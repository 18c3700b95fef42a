"""`carl train` and the commands that ask after its jobs, on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cli.conftest import Carl

SFT = ("--method", "sft", "--set", "sft.max_steps=1")
TOKEN = "hf_" + "a1B2" * 9


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("HF_TOKEN", raising=False)


def interpreter(text: str) -> Path:
    """A program that runs instead of Python."""
    path = Path("stub.sh").resolve()
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def started(carl: Carl, *given: Any) -> str:
    """The id of a job that goes on by itself."""
    found = carl("train", *SFT, "--json", *given)
    assert found.code == 0, found.err
    return str(json.loads(found.out)["id"])


def settled(carl: Carl, job: str) -> dict[str, Any]:
    for _ in range(600):
        said: dict[str, Any] = json.loads(carl("status", job, "--json").out)["jobs"][0]
        if said["state"] not in ("pending", "starting", "running", "stopping"):
            return said
        time.sleep(0.1)
    raise AssertionError(said)


def test_the_script_that_runs_is_the_one_that_is_printed(carl: Carl) -> None:
    script = carl("bundle", *SFT).out
    shown = carl("train", *SFT, "--python", "cat")
    assert (shown.code, shown.out) == (0, script)
    assert "built-in task" in shown.err
    assert "succeeded" in shown.err


def test_the_exit_code_is_that_of_the_script(carl: Carl) -> None:
    found = carl("train", *SFT, "--python", interpreter("echo no; exit 3"))
    assert (found.code, found.out) == (3, "no\n")
    assert "inconclusive" in found.err
    killed = carl("train", *SFT, "--python", interpreter("kill -9 $$"))
    assert killed.code == 137


def test_a_job_is_stopped_resumed_fetched_and_listed(carl: Carl) -> None:
    stub = interpreter(
        "mkdir -p runs/carl; echo $# arguments\n"
        "[ -f runs/carl/checkpoint ] && { echo goes on; exit 0; }\n"
        "trap 'echo saved > runs/carl/checkpoint; exit 85' TERM\n"
        "while true; do sleep 0.05; done"
    )
    job = started(carl, "--python", stub, "--accept", "sft")
    assert carl("status", job[:5]).out.split()[:2] == [job, "running"]
    assert "is running" in carl("resume", job).err
    while carl("logs", job).out != "3 arguments\n":
        time.sleep(0.05)
    assert carl("stop", job).code == 0
    said = settled(carl, job)
    assert (said["state"], said["exit_code"]) == ("stopped", 85)
    before = carl("logs", job).out
    resumed = carl("resume", job)
    assert (resumed.code, resumed.out) == (0, "3 arguments\ngoes on\n")
    assert carl("logs", job).out == before + resumed.out
    assert carl("logs", job, "--offset", len(before)).out == resumed.out
    assert carl("fetch", job, "-o", "home").out == "home/runs/carl/checkpoint\n"
    assert Path("home/runs/carl/checkpoint").read_text() == "saved\n"
    assert carl("list").out.split()[:2] == [job, "succeeded"]
    assert carl("status").out == "", "nothing runs any more"
    assert "is done" in carl("resume", job).err
    happened = [what for _, what, _ in settled(carl, job)["events"]]
    assert happened[:2] == ["created", "submitted"]
    assert [x for x in happened if x in ("stop asked", "stopped", "resumed")] == [
        "stop asked",
        "stopped",
        "resumed",
    ]


def test_its_host_ends_a_job_that_takes_too_long(carl: Carl) -> None:
    stub = interpreter("exec sleep 300")
    found = carl("train", *SFT, "--python", stub, "--timeout", "0.5s")
    assert found.code == 124
    assert "time limit" in found.err


@pytest.mark.parametrize("text", ["", "5", "h", "-1h", "1w", "1e3s"])
def test_a_time_that_is_none_is_refused(carl: Carl, text: str) -> None:
    found = carl("train", *SFT, "--timeout", text, "--dry-run")
    if not text:
        assert found.code == 0
        return
    assert found.code == 2
    assert "30m" in found.err


def test_a_dry_run_shows_what_would_be_sent_and_sends_nothing(
    carl: Carl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    found = carl("train", *SFT, "--dry-run")
    plan = json.loads(found.out)
    assert plan["command"] == [sys.executable, "train.py"]
    assert plan["files"] == {"train.py": len(carl("bundle", *SFT).out.encode())}
    assert plan["secrets"] == ["HF_TOKEN"]
    assert TOKEN not in found.out + found.err
    assert not Path("state").exists()
    other = json.loads(carl("train", *SFT, "--compute", "ssh@far", "--dry-run").out)
    assert other["command"] == ["uv", "run", "train.py"]


@pytest.mark.parametrize(
    ("compute", "told"),
    [
        ("nowhere", "there is no backend"),
        ("ssh", "ssh needs a host"),
        ("ssh@-oProxyCommand=x", "ssh needs a host"),
        ("local:h100", "local has no flavors"),
    ],
)
def test_a_place_that_cannot_be_is_refused(carl: Carl, compute: str, told: str) -> None:
    found = carl("train", *SFT, "--compute", compute)
    assert found.code == 2
    assert told in found.err
    assert carl("list").out == ""


def test_a_token_in_a_script_is_not_sent(
    carl: Carl, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("a", TOKEN), ("b", "plain-looking-secret")):
        monkeypatch.setenv("MY_SECRET", value)
        given = ("--set", f"sft.trainer.optim_args={value}", "--secret", "MY_SECRET")
        found = carl("train", *SFT, *given)
        assert found.code == 2, name
        assert "of the script holds" in found.err
        assert value not in found.out + found.err
    missing = carl("train", *SFT, "--secret", "NOT_SET")
    assert "the secret NOT_SET is not set" in missing.err


def test_a_secret_is_seen_by_the_script_alone(
    carl: Carl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    stub = interpreter('test -n "$HF_TOKEN" && echo it is $HF_TOKEN')
    found = carl("train", *SFT, "--python", stub)
    assert (found.code, found.out) == (0, "it is ***\n")
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path


def test_data_travels_with_the_script(carl: Carl) -> None:
    Path("rows.jsonl").write_text('{"messages": []}\n')
    stub = interpreter("cat rows.jsonl")
    shown = carl("train", *SFT, "--dataset", "rows.jsonl", "--python", stub)
    assert shown.out == '{"messages": []}\n'
    assert "built-in task" not in shown.err
    far = ("--compute", "ssh@far", "--dry-run")
    plan = json.loads(carl("train", *SFT, "--dataset", "rows.jsonl", *far).out)
    assert plan["files"]["rows.jsonl"] == 17
    assert plan["links"] == {}


def test_a_job_outlives_the_command_that_started_it(carl: Carl, tmp_path: Path) -> None:
    """The command is killed with all of its session."""
    stub = interpreter("echo begun; sleep 2; echo done")
    command = [sys.executable, "-m", "carl_bundle.cli.app", "train", *SFT]
    process = subprocess.Popen(
        [*command, "--python", str(stub)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    os.killpg(process.pid, 9)
    process.wait()
    [job] = json.loads(carl("list", "--json").out)["jobs"]
    assert settled(carl, job["id"])["state"] == "succeeded"
    assert carl("logs", job["id"]).out == "begun\ndone\n"


def test_a_job_that_is_not_known_is_named(carl: Carl) -> None:
    for command in ("status", "logs", "stop", "resume", "fetch"):
        found = carl(command, "abcdef")
        assert found.code == 2
        assert "there is no job abcdef" in found.err
