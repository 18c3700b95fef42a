"""What a run directory holds, whatever happens to the run."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from carl_runtime_min.errors import UsageError
from carl_runtime_min.run import (
    COMPLETE,
    RunDir,
    claim,
    complete_checkpoints,
    read_json,
    weights_sha256,
    write_json,
)
from tests.trainers import run_dir


def strict(text: str) -> Any:
    """JSON as other languages read it: without NaN."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def lines(path: Path) -> list[Any]:
    return [strict(line) for line in path.read_text().splitlines()]


def checkpoint(run: RunDir, step: int, complete: bool = True) -> Path:
    folder = run.checkpoints / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"...")
    if complete:
        write_json(folder / COMPLETE, {"step": step})
    return folder


def test_json_is_replaced_in_one_step(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "deep" / "value.json"
    assert read_json(path) is None
    write_json(path, {"a": 1})
    seen = []
    replace = Path.replace

    def watched(self: Path, target: Path) -> Path:
        seen.append((read_json(path), read_json(self)))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    write_json(path, {"a": 2, "text": "ä\u2028\x00"})
    assert seen == [({"a": 1}, {"a": 2, "text": "ä\u2028\x00"})]
    assert read_json(path) == {"a": 2, "text": "ä\u2028\x00"}
    assert [found.name for found in path.parent.iterdir()] == ["value.json"]


def test_json_holds_no_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": math.nan, "y": [1.0, {"z": -math.inf}]})
    assert strict((tmp_path / "a.json").read_text()) == {
        "x": None,
        "y": [1.0, {"z": None}],
    }


def test_a_full_disk_leaves_the_old_file_and_no_draft(
    tmp_path: Path, monkeypatch: Any
) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_json(path, {"a": 2})
    assert read_json(path) == {"a": 1}
    assert [found.name for found in tmp_path.iterdir()] == ["value.json"]


def test_records_are_lines_of_json_without_nan(tmp_path: Path) -> None:
    run = run_dir(tmp_path, "sft")
    record = {"step": 1, "loss": math.nan, "rewards": {"a": math.inf, "b": 1.0}}
    run.append("metrics", {**record, "phi": [0.5, math.nan], "text": "a\nb\u2028"})
    expected = {"phase": "sft", "step": 1, "loss": None, "text": "a\nb\u2028"}
    expected |= {"rewards": {"a": None, "b": 1.0}, "phi": [0.5, None]}
    assert lines(tmp_path / "metrics.jsonl") == [expected]
    assert run.records("metrics") == [expected]
    assert run.records("nothing") == []


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    tmp_path.mkdir(exist_ok=True)
    run = RunDir(tmp_path, "grpo", 1, "auto")
    run.append("metrics", {"step": 1})
    run.summarise(stage="A")
    run.rewind(0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("torn", ['{"phase": "grpo", "st', '{"a": {"b": 1}'])
def test_a_line_that_a_crash_tore_is_left_out(tmp_path: Path, torn: str) -> None:
    run = run_dir(tmp_path)
    run.append("metrics", {"step": 1})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(torn)
    assert [record["step"] for record in run.records("metrics")] == [1]
    run.rewind(1)
    run.append("metrics", {"step": 2})
    assert [record["step"] for record in lines(tmp_path / "metrics.jsonl")] == [1, 2]


def test_rewinding_forgets_what_will_happen_again_in_this_phase(
    tmp_path: Path,
) -> None:
    for phase in ("sft", "grpo"):
        for step in (1, 2, 3):
            run_dir(tmp_path, phase).append("metrics", {"step": step})
    run_dir(tmp_path).append("samples", {"step": 3})
    run_dir(tmp_path).rewind(2)
    kept = [(x["phase"], x["step"]) for x in lines(tmp_path / "metrics.jsonl")]
    assert kept == [("sft", 1), ("sft", 2), ("sft", 3), ("grpo", 1), ("grpo", 2)]
    assert lines(tmp_path / "samples.jsonl") == []
    assert sorted(x.name for x in tmp_path.iterdir()) == [
        "metrics.jsonl",
        "samples.jsonl",
    ]


def test_summaries_add_up(tmp_path: Path) -> None:
    run_dir(tmp_path, "sft").summarise(gate_step=7, weights_sha256="a")
    run_dir(tmp_path).summarise(stage="B", weights_sha256="b")
    expected = {"gate_step": 7, "weights_sha256": "b", "stage": "B"}
    assert read_json(tmp_path / "summary.json") == expected


def test_a_run_continues_from_its_last_complete_checkpoint(tmp_path: Path) -> None:
    run = run_dir(tmp_path)
    assert run.start() is None
    second, tenth = checkpoint(run, 2), checkpoint(run, 10)
    checkpoint(run, 11, complete=False)
    assert complete_checkpoints(run.checkpoints) == [second, tenth]
    assert run.start() == tenth
    assert run_dir(tmp_path, "sft").start() is None


def test_a_run_continues_from_a_chosen_checkpoint(tmp_path: Path) -> None:
    run = run_dir(tmp_path)
    second, half = checkpoint(run, 2), checkpoint(run, 4, complete=False)
    checkpoint(run, 10)
    assert run_dir(tmp_path, resume=str(second)).start() == second
    for wrong in (half, tmp_path / "nowhere"):
        with pytest.raises(UsageError, match="no complete checkpoint") as refused:
            run_dir(tmp_path, resume=str(wrong)).start()
        assert str(run.checkpoints) in refused.value.remedy


def test_going_back_to_a_checkpoint_forgets_the_later_ones(tmp_path: Path) -> None:
    run = run_dir(tmp_path)
    second, _ = checkpoint(run, 2), checkpoint(run, 10)
    other = checkpoint(run_dir(tmp_path, "sft"), 10)
    run.rewind(2)
    assert complete_checkpoints(run.checkpoints) == [second]
    assert run_dir(tmp_path, "sft").start() == other


def test_a_chosen_checkpoint_is_that_of_its_own_phase_only(tmp_path: Path) -> None:
    """`--resume PATH` reaches every phase of a pipeline."""
    chosen = checkpoint(run_dir(tmp_path, "sft"), 2)
    assert run_dir(tmp_path, "grpo", str(chosen)).start() is None
    later = checkpoint(run_dir(tmp_path, "grpo"), 3)
    assert run_dir(tmp_path, "grpo", str(chosen)).start() == later


def test_the_digest_of_weights_is_that_of_the_numbers(tmp_path: Path) -> None:
    def digest(name: str, *shards: dict[str, torch.Tensor]) -> str:
        (tmp_path / name).mkdir()
        for i, shard in enumerate(shards):
            save_file(shard, tmp_path / name / f"model-{i}.safetensors")
        return weights_sha256(tmp_path / name)

    a, b = torch.arange(6.0).view(2, 3), torch.ones(2, dtype=torch.bfloat16)
    first = digest("first", {"a": a, "b": b})
    assert digest("again", {"b": b, "a": a.clone()}) == first
    assert digest("shards", {"a": a}, {"b": b}) == first
    assert digest("shape", {"a": a.view(3, 2), "b": b}) != first
    assert digest("type", {"a": a, "b": b.half()}) != first
    assert digest("name", {"c": a, "b": b}) != first
    a[1, 2] += 1e-6
    assert digest("value", {"a": a, "b": b}) != first


IDENTITY = {
    "world_size": 1,
    "data_sha256": {"rows.jsonl": "d1"},
    "spec_sha256": "s1",
    "script_sha256": "c1",
}


def start(path: Path, resume: str = "auto", **changed: Any) -> None:
    """Claim `path` as one command would, then end that command."""
    identity = {**IDENTITY, **changed}
    descriptor = claim(path, identity, resume)
    write_json(path / "run.json", identity)
    os.close(descriptor)


def test_the_same_run_may_continue(tmp_path: Path) -> None:
    start(tmp_path / "run")
    start(tmp_path / "run")
    start(tmp_path / "run", resume=str(tmp_path))


@pytest.mark.parametrize(
    "changed",
    [
        {"script_sha256": "c2"},
        {"spec_sha256": "s2", "script_sha256": "c2"},
        {"data_sha256": {"rows.jsonl": "d2"}},
        {"world_size": 4},
    ],
)
def test_another_run_is_refused_by_name(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    start(tmp_path)
    name, value = next(iter(changed.items()))
    with pytest.raises(UsageError, match=name) as refused:
        start(tmp_path, **changed)
    assert str(value) in str(refused.value)
    assert str(IDENTITY[name]) in str(refused.value)
    assert "--run-dir" in refused.value.remedy
    assert refused.value.exit_code == 2


def test_never_wants_a_directory_without_a_run(tmp_path: Path) -> None:
    start(tmp_path / "run", resume="never")
    with pytest.raises(UsageError, match="holds a run already"):
        start(tmp_path / "run", resume="never")


HOLDER = """
import fcntl, os, sys
lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(lock, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_two_processes_do_not_share_a_run_directory(tmp_path: Path) -> None:
    start(tmp_path)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UsageError, match="a process is running in"):
            start(tmp_path)
        assert holder.stdin is not None
        holder.stdin.close()
    start(tmp_path)


def test_a_lock_outlives_the_one_who_took_it(tmp_path: Path) -> None:
    """A phase inherits it: while a phase lives, nobody else may start."""
    descriptor = claim(tmp_path, IDENTITY, "auto")
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"],
        stdin=subprocess.PIPE,
        pass_fds=(descriptor,),
    )
    os.close(descriptor)
    with child:
        with pytest.raises(UsageError, match="a process is running in"):
            start(tmp_path)
        assert child.stdin is not None
        child.stdin.close()
    start(tmp_path)
