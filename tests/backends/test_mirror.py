"""What a run has saved, copied to where it outlives its host."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from carl_bundle.backends.mirror import read_manifest, restore, save


def checkpoint(run: Path, step: int, phase: str = "sft", text: str = "weights") -> Path:
    folder = run / "checkpoints" / phase / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text(f"{text} {step}")
    (folder / "trainer_state.json").write_text("{}")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    checkpoint(path, 2)
    (path / "metrics.jsonl").write_text("1\n2\n")
    (path / "stop").write_text("")
    return path


def files(folder: Path) -> dict[str, str]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in found}


def test_a_copy_follows_the_run_and_brings_it_back(run: Path, tmp_path: Path) -> None:
    copy, again = tmp_path / "copy", tmp_path / "again"
    save(run, copy)
    shutil.rmtree(run / "checkpoints" / "sft" / "checkpoint-2")
    for step in (4, 6):
        checkpoint(run, step)
    (run / "metrics.jsonl").write_text("1\n2\n3\n")
    (run / "model").mkdir()
    (run / "model" / "model.safetensors").write_text("result")
    save(run, copy)
    assert sorted(read_manifest(copy)) == [
        "checkpoints/sft/checkpoint-4",
        "checkpoints/sft/checkpoint-6",
        "model",
    ]
    restore(copy, again)
    (run / "stop").unlink()
    assert files(again) == files(run)


def test_a_half_checkpoint_is_not_copied_and_half_a_copy_not_restored(
    run: Path, tmp_path: Path
) -> None:
    copy, again = tmp_path / "copy", tmp_path / "again"
    (checkpoint(run, 4) / "trainer_state.json").unlink()
    save(run, copy)
    assert list(read_manifest(copy)) == ["checkpoints/sft/checkpoint-2"]
    checkpoint(copy, 6)  # its manifest was not written
    restore(copy, again)
    assert [path.name for path in again.glob("checkpoints/*/*")] == ["checkpoint-2"]
    (run / "checkpoints" / "sft" / "checkpoint-4" / "trainer_state.json").touch()
    checkpoint(run, 6)
    save(run, copy)
    assert files(copy / "checkpoints") == files(run / "checkpoints")


def test_a_damaged_copy_is_named(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    with pytest.raises(OSError, match="holds no checkpoint"):
        restore(copy, tmp_path / "again")
    save(run, copy)
    weights = copy / "checkpoints" / "sft" / "checkpoint-2" / "model.safetensors"
    weights.write_text("weights 3")
    with pytest.raises(OSError, match="checkpoint-2 is not what was saved"):
        restore(copy, tmp_path / "again")


def test_nothing_is_copied_twice(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    save(run, copy)

    def copied(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(shutil, "copytree", copied)
    save(run, copy)
