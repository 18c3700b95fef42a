"""Scripts as processes: codes, signals, crashes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import psutil
import pytest

from carl_runtime_min.run import checkpoints, read_json
from tests import tiny
from tests.scripts import GROUPS, SMALL, Running, render, run

pytestmark = pytest.mark.xdist_group("processes")  # they need the cores for themselves


def metrics(path: Path, phase: str) -> list[int]:
    """The steps that `phase` logged, in the order of the file."""
    lines = (path / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [row["step"] for row in rows if row["phase"] == phase and "loss" in row]


def last_step(path: Path, phase: str) -> int:
    """The step of the last whole checkpoint of `phase`."""
    states = checkpoints(path / "checkpoints" / phase).values()
    return max(int(state["global_step"]) for state in states)


EMBEDDED = {
    "sft": {"max_steps": 3, "per_device_train_batch_size": 8},
    "grpo": {"max_steps": 2, "per_device_train_batch_size": 16},
    "eval": {"items": 40},
}


def test_the_embedded_pipeline_stops_at_a_missed_gate_and_can_go_on(
    tmp_path: Path,
) -> None:
    """Shortened: no gate fires after three steps, and two steps prove nothing."""
    script = render(tmp_path, EMBEDDED)
    missed = run(script)
    assert missed.returncode == 1
    assert "python train.py --accept sft" in missed.stdout
    path = tmp_path / "runs" / "carl"
    assert read_json(path / "phases.json") == {"sft": 1}
    assert read_json(path / "exit.json")["code"] == 1
    assert metrics(path, "sft") == [1, 2, 3]

    accepted = run(script, "--accept", "sft")
    assert accepted.returncode == 3
    assert "Traceback" not in missed.stderr + accepted.stderr
    assert metrics(path, "sft") == [1, 2, 3]
    assert metrics(path, "grpo") == [1, 2]
    assert read_json(path / "phases.json") == {"sft": 1, "grpo": 0, "eval": 3}
    summary = read_json(path / "summary.json")
    assert summary["verdict"] == "INCONCLUSIVE"
    assert (summary["gate_step"], summary["cascade_step"]) == (None, None)
    assert summary["stage"] == "A"
    assert len(summary["weights_sha256"]) == 64
    assert "never opened" in accepted.stdout
    for words in (
        "INCONCLUSIVE",
        "Φ",
        "token accuracy",
        "reward",
        "█",
        "gate",
        "stage",
    ):
        assert words in accepted.stdout
    record = read_json(path / "run.json")
    assert record["seed"] == 42
    assert record["script_sha256"]
    names = {found.name for found in path.iterdir() if found.name[0] != "."}
    assert names >= {
        *("metrics.jsonl", "samples.jsonl", "run.json", "summary.json", "exit.json"),
        *("checkpoints", "model"),
    }


def workers(supervisor: int) -> list[psutil.Process]:
    return psutil.Process(supervisor).children(recursive=True)


def test_a_run_survives_what_a_machine_does_to_it(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    """A stop, a killed phase, a killed supervisor: the same command goes on."""
    spec = {
        "name": "tough",
        "method": "sft",
        "model": str(tiny_model_dir),
        "data": str(tiny.write_jsonl(tmp_path / "qa.jsonl", tiny.questions(16))),
        "lora": False,
        "sft": {**SMALL, "max_steps": 1_000_000, "save_steps": 50},
    }
    script = render(tmp_path, spec)
    path = tmp_path / "runs" / "tough"

    with Running(script) as first:
        first.until_said("sft 3/")
        refused = run(script)
        assert refused.returncode == 2
        assert f"error: a process is running in {path}" in refused.stderr
        assert "fix: " in refused.stderr
        os.kill(first.process.pid, signal.SIGTERM)
        assert first.code() == 85
    assert read_json(path / "exit.json")["code"] == 85
    stopped = last_step(path, "sft")
    assert stopped == metrics(path, "sft")[-1]

    with Running(script) as second:
        second.until_said(f"sft: continuing after step {stopped}")
        second.until_said(f"sft {stopped + 3}/")
        (worker,) = workers(second.process.pid)
        worker.kill()
        assert second.code() == 70
        assert "killed: out of memory?" in second.output
        assert "same command again" in second.output
        assert "Traceback" not in second.output

    with Running(script) as third:
        third.until_said("sft: continuing after step")
        start = metrics(path, "sft")[-1]
        third.until(lambda: metrics(path, "sft")[-1] > start)
        (worker,) = workers(third.process.pid)
        os.kill(third.process.pid, signal.SIGKILL)
        third.code()
        _, alive = psutil.wait_procs([worker], timeout=60)
        assert not alive, "the phase outlived its supervisor"
    steps = metrics(path, "sft")
    assert steps == list(range(1, last_step(path, "sft") + 1))
    assert len(list((path / "checkpoints" / "sft").glob("checkpoint-*"))) in (1, 2)


SLOW = """import time


def slow(completions, **rest):
    time.sleep(1)
    return [len(turns[0]["content"]) / 8 for turns in completions]
"""


def test_a_second_signal_ends_a_phase_at_once_and_it_can_go_on(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    (tmp_path / "rewards.py").write_text(SLOW)
    spec = {
        "name": "slow",
        "method": "grpo",
        "model": str(tiny_model_dir),
        "data": str(tiny.write_jsonl(tmp_path / "qa.jsonl", tiny.questions(16))),
        "grpo": {**SMALL, **GROUPS, "max_steps": 1_000, "save_steps": 1},
        "rewards": [{"function": "rewards.py:slow"}],
    }
    script, path = render(tmp_path, spec), tmp_path / "runs" / "slow"
    with Running(script) as first:
        first.until_said("grpo 2/")
        started = workers(first.process.pid)
        os.kill(first.process.pid, signal.SIGTERM)
        first.until((path / "stop").exists)
        os.kill(first.process.pid, signal.SIGTERM)
        assert first.code() == 130
        assert started
        _, alive = psutil.wait_procs(started, timeout=5)
        assert not alive, "a process was left behind"
        assert "same command again" in first.output
        assert "Traceback" not in first.output
    assert not (path / "exit.json").exists()  # the phase had no time to write it

    with Running(script) as second:
        second.until_said("grpo: continuing after step")
        second.until_said("grpo 4/")
        os.kill(second.process.pid, signal.SIGTERM)
        assert second.code() == 85
    steps = metrics(path, "grpo")
    assert steps == list(range(1, last_step(path, "grpo") + 1))
