"""What a run directory holds, whatever happens to the run."""

from __future__ import annotations

import errno
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import pytest

from carl_runtime_min.run import (
    STATE,
    Run,
    chain_link,
    checkpoints,
    read_json,
    sha256,
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


def checkpoint(run: Run, step: int, torn: int = 0) -> Path:
    """What transformers leaves at `step`; its state lacks the last `torn` bytes."""
    from transformers import TrainerState

    folder = run.checkpoints / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"...")
    log = [{"loss": math.nan, "text": "}\n}\n"}]
    TrainerState(global_step=step, log_history=log).save_to_json(str(folder / STATE))
    text = (folder / STATE).read_text()
    (folder / STATE).write_text(text[: len(text) - torn])
    return folder


def test_json_is_replaced_in_one_step(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "value.json"
    assert read_json(path) == {}
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

    def full(self: Path, text: str) -> None:
        with self.open("w") as file:
            file.write(text[:1])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
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
    expected["chain"] = chain_link("None", expected)
    assert lines(tmp_path / "metrics.jsonl") == [expected]
    assert run.records("metrics") == [expected]
    assert run.records("nothing") == []


def test_other_ranks_write_and_say_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    torn = checkpoint(run_dir(tmp_path), 2, torn=1)
    monkeypatch.setenv("RANK", "1")
    run = run_dir(tmp_path)
    run.append("metrics", {"step": 1})
    run.summarise(stage="A")
    run.say("hello")
    assert run.start() == (None, {"global_step": 0})
    assert torn.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("torn", ['{"phase": "grpo", "st', '{"a": {"b": 1}'])
def test_a_line_that_a_crash_tore_is_left_out(tmp_path: Path, torn: str) -> None:
    run = run_dir(tmp_path)
    run.append("metrics", {"step": 1})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(torn)
    assert [record["step"] for record in run.records("metrics")] == [1]
    checkpoint(run, 1)
    run.start()
    run.append("metrics", {"step": 2})
    assert [record["step"] for record in lines(tmp_path / "metrics.jsonl")] == [1, 2]


def test_rewinding_forgets_what_will_happen_again_in_this_phase(
    tmp_path: Path,
) -> None:
    for phase in ("sft", "grpo"):
        for step in (1, 2, 3):
            run_dir(tmp_path, phase).append("metrics", {"step": step})
    run_dir(tmp_path).append("samples", {"step": 3})
    checkpoint(run_dir(tmp_path), 2)
    run_dir(tmp_path).start()
    kept = [(x["phase"], x["step"]) for x in lines(tmp_path / "metrics.jsonl")]
    assert kept == [("sft", 1), ("sft", 2), ("sft", 3), ("grpo", 1), ("grpo", 2)]
    assert lines(tmp_path / "samples.jsonl") == []
    names = {path.name for path in tmp_path.iterdir()}
    records = {"metrics.jsonl", "samples.jsonl"}
    assert names == {"checkpoints", "records.json", *records}


def test_the_ends_of_all_records_are_noted(tmp_path: Path) -> None:
    run = run_dir(tmp_path, "sft")
    for step in (1, 2):
        run.append("metrics", {"step": step})
    run_dir(tmp_path).append("samples", {"step": 1})
    run.anchor()
    ends = read_json(tmp_path / "records.json")
    assert ends == {
        name: run.records(name)[-1]["chain"] for name in ("metrics", "samples")
    }


def test_summaries_add_up(tmp_path: Path) -> None:
    run_dir(tmp_path, "sft").summarise(gate_step=7, weights_sha256="a")
    run_dir(tmp_path).summarise(stage="B", weights_sha256="b")
    expected = {"gate_step": 7, "weights_sha256": "b", "stage": "B"}
    assert read_json(tmp_path / "summary.json") == expected


def test_a_run_continues_from_its_last_whole_checkpoint(tmp_path: Path) -> None:
    run = run_dir(tmp_path)
    assert run.start() == (None, {"global_step": 0})
    second, tenth = checkpoint(run, 2), checkpoint(run, 10)
    assert set(checkpoints(run.checkpoints)) == {second, tenth}
    chosen, state = run.start()
    assert (chosen, state["global_step"]) == (tenth, 10)
    assert run_dir(tmp_path, "sft").start()[0] is None


@pytest.mark.parametrize("torn", [1, 2, 3, 100, 10**6])
def test_what_is_not_whole_is_no_checkpoint_and_is_removed(
    tmp_path: Path, torn: int
) -> None:
    run = run_dir(tmp_path)
    second, half = checkpoint(run, 2), checkpoint(run, 4, torn=torn)
    other = checkpoint(run_dir(tmp_path, "sft"), 4, torn=torn)
    bare, result = run.checkpoints / "checkpoint-6", run.checkpoints / "model"
    for folder in (bare, result):
        folder.mkdir()
    assert list(checkpoints(run.checkpoints)) == [second]
    assert run.start()[0] == second
    assert [path.exists() for path in (second, half, bare)] == [True, False, False]
    assert other.exists()  # of another phase
    assert result.exists()


def test_every_beginning_of_a_state_is_torn(tmp_path: Path) -> None:
    state = checkpoint(run_dir(tmp_path), 2) / STATE
    text = state.read_bytes()
    for end in range(len(text)):
        state.write_bytes(text[:end])
        assert not checkpoints(run_dir(tmp_path).checkpoints)
    state.write_bytes(text)
    assert checkpoints(run_dir(tmp_path).checkpoints)


def test_a_checkpoint_that_a_crash_kept_from_being_removed_is_not_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(path: Path) -> None:
        (path / "model.safetensors").unlink()
        raise KeyboardInterrupt

    run = run_dir(tmp_path)
    second, _ = checkpoint(run, 2), checkpoint(run, 4)
    monkeypatch.setattr("shutil.rmtree", crash)
    with pytest.raises(KeyboardInterrupt):
        run.clean([second])
    assert list(checkpoints(run.checkpoints)) == [second]


def test_a_run_continues_from_a_chosen_checkpoint_and_forgets_the_later_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_dir(tmp_path)
    first, second, last = (checkpoint(run, step) for step in (1, 2, 10))
    other = checkpoint(run_dir(tmp_path, "sft"), 10)
    monkeypatch.chdir(tmp_path)  # as it would be typed
    chosen, state = run_dir(tmp_path, resume=str(second.relative_to(tmp_path))).start()
    assert (chosen, state["global_step"]) == (second, 2)
    assert set(checkpoints(run.checkpoints)) == {first, second}
    assert not last.exists()
    assert run_dir(tmp_path, "sft").start()[0] == other


def test_a_chosen_checkpoint_is_that_of_its_own_phase_only(tmp_path: Path) -> None:
    """`--resume PATH` reaches every phase of a pipeline."""
    chosen = checkpoint(run_dir(tmp_path, "sft"), 2)
    assert run_dir(tmp_path, "grpo", str(chosen)).start()[0] is None
    later = checkpoint(run_dir(tmp_path, "grpo"), 3)
    assert run_dir(tmp_path, "grpo", str(chosen)).start()[0] == later


def test_the_digest_of_weights_is_that_of_their_files(tmp_path: Path) -> None:
    one, two = tmp_path / "model-1.safetensors", tmp_path / "model-2.safetensors"
    (tmp_path / "config.json").write_text("{}")
    one.write_bytes(b"one")
    assert weights_sha256(tmp_path) == sha256(one) == hashlib.sha256(b"one").hexdigest()
    two.write_bytes(b"two")
    both = (sha256(one) + sha256(two)).encode()
    assert weights_sha256(tmp_path) == hashlib.sha256(both).hexdigest()


@pytest.mark.parametrize(
    ("limit", "best", "kept"),
    [
        (None, None, [2, 4, 10, 12]),
        (9, None, [2, 4, 10, 12]),
        (2, None, [10, 12]),
        (1, None, [12]),
        (2, 4, [4, 12]),
        (2, 12, [10, 12]),
        (1, 2, [2, 12]),
    ],
)
def test_the_last_checkpoints_stay_and_the_best_one(
    tmp_path: Path, limit: int | None, best: int | None, kept: list[int]
) -> None:
    run = run_dir(tmp_path, "sft")
    made = {step: checkpoint(run, step) for step in (2, 4, 10, 12)}
    run.rotate(limit, str(made[best]) if best else None)
    assert checkpoints(run.checkpoints).keys() == {made[step] for step in kept}
    assert set(run.checkpoints.iterdir()) == {made[step] for step in kept}
