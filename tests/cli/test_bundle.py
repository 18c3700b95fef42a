"""`carl bundle`: from a spec to its script."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from carl_bundle import TrainSpec, bundle
from cli.conftest import Carl


def test_without_arguments_it_renders_the_embedded_default(carl: Carl) -> None:
    found = carl("bundle")
    assert (found.code, found.err) == (0, "")
    assert found.out == bundle(TrainSpec())


def test_flags_win_over_the_file(carl: Carl, tmp_path: Path) -> None:
    (tmp_path / "carl.yaml").write_text("name: mine\nseed: 1\nmethod: sft\n")
    found = carl("bundle", "carl.yaml", "--seed", 2, "--set", "sft.learning_rate=0.5")
    spec = {"name": "mine", "seed": 2, "method": "sft", "sft": {"learning_rate": 0.5}}
    assert found.out == bundle(TrainSpec.model_validate(spec))


def test_the_control_is_one_flag_away(carl: Carl) -> None:
    found = carl("bundle", "--no-carl", "--method", "grpo", "--name", "control")
    assert found.code == 0
    assert "class CoherenceReward" not in found.out


def test_a_spec_from_standard_input(
    carl: Carl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"seed: 9\n")))
    assert carl("bundle", "-").out == bundle(TrainSpec(seed=9))


def test_what_a_class_cannot_do_is_remarked_upon(carl: Carl, tmp_path: Path) -> None:
    (tmp_path / "carl.yaml").write_text(
        "method: sft\ndata: rows.jsonl\nmodel: {id: ./x, frozen: {architecture: "
        "CTRLLMHeadModel, auto_class: causal-lm}}\n"
    )
    found = carl("bundle", "carl.yaml")
    assert found.code == 0
    assert "sft.gradient_checkpointing is false" in found.err
    assert '"gradient_checkpointing": False' in found.out


def test_every_problem_is_reported_at_once(carl: Carl, tmp_path: Path) -> None:
    (tmp_path / "carl.yaml").write_text("sed: 1\ngrpo: {num_generations: 1.5}\n")
    found = carl("bundle", "carl.yaml")
    assert (found.code, found.out) == (2, "")
    assert found.err.count("error: ") == 2
    assert "Traceback" not in found.err


@pytest.mark.parametrize(
    "text", ["a: [", "- 1", "\t", "a: 1\na: 2", "*x", "name: 'a\\\n", "\x00"]
)
def test_broken_yaml_is_one_clear_error(carl: Carl, tmp_path: Path, text: str) -> None:
    (tmp_path / "carl.yaml").write_text(text)
    found = carl("bundle", "carl.yaml")
    assert (found.code, found.out) == (2, "")
    assert found.err.startswith("error: ")
    assert "  fix: " in found.err


def test_a_missing_spec_is_one_clear_error(carl: Carl) -> None:
    found = carl("bundle", "gone.yaml")
    assert found.code == 2
    assert found.err.startswith("error: cannot read gone.yaml")


def test_resolved_is_a_spec_that_renders_the_same_bytes(
    carl: Carl, tmp_path: Path
) -> None:
    arguments = [
        "--set",
        "grpo.learning_rate=1e-5",
        "--set",
        'data.system_prompt="1e5"',
    ]
    script = carl("bundle", *arguments)
    resolved = carl("bundle", *arguments, "--resolved")
    (tmp_path / "frozen.yaml").write_text(resolved.out, encoding="utf-8")
    assert script.code == resolved.code == 0
    assert carl("bundle", "frozen.yaml").out == script.out


def test_user_code_is_found_beside_the_spec(carl: Carl, tmp_path: Path) -> None:
    folder = tmp_path / "deep"
    folder.mkdir()
    (folder / "mine.py").write_text("def mine(completions):\n    return [0.0]\n")
    (folder / "carl.yaml").write_text("rewards: [{function: 'mine.py:mine'}]\n")
    found = carl("bundle", "deep/carl.yaml")
    assert found.code == 0
    assert "def mine(completions):" in found.out


def test_a_file_is_written_whole(carl: Carl, tmp_path: Path) -> None:
    found = carl("bundle", "-o", "train.py")
    assert (found.code, found.out) == (0, "")
    assert (tmp_path / "train.py").read_bytes() == bundle(TrainSpec()).encode()
    assert [path.name for path in tmp_path.iterdir()] == ["train.py"]


def test_a_pristine_file_is_overwritten(carl: Carl, tmp_path: Path) -> None:
    assert carl("bundle", "-o", "train.py").code == 0
    assert carl("bundle", "-o", "train.py", "--seed", 5).code == 0
    assert '"seed": 5' in (tmp_path / "train.py").read_text()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"seed": 42', '"seed": 43', "has been edited (configuration)"),
        ("def main(", "def  main(", "has been edited (wiring)"),
        ("# /// script", "# script", "is no script of carl bundle"),
    ],
)
def test_an_edited_or_foreign_file_needs_force(
    carl: Carl, tmp_path: Path, old: str, new: str, message: str
) -> None:
    file = tmp_path / "train.py"
    text = bundle(TrainSpec()).replace(old, new, 1)
    file.write_text(text)
    found = carl("bundle", "--seed", 3, "-o", "train.py")
    assert (found.code, file.read_text()) == (2, text)
    assert message in found.err
    assert "--force" in found.err
    assert carl("bundle", "--seed", 3, "-o", "train.py", "--force").code == 0
    assert file.read_text() == bundle(TrainSpec(seed=3))


def test_resolved_does_not_overwrite_a_spec_of_yours(
    carl: Carl, tmp_path: Path
) -> None:
    (tmp_path / "carl.yaml").write_text("# mine\nseed: 4\n")
    found = carl("bundle", "carl.yaml", "--resolved", "-o", "carl.yaml")
    assert found.code == 2
    assert (tmp_path / "carl.yaml").read_text() == "# mine\nseed: 4\n"


@pytest.mark.parametrize("place", ["gone/train.py", "."])
def test_a_place_that_cannot_be_written(carl: Carl, place: str) -> None:
    found = carl("bundle", "-o", place)
    assert (found.code, found.out) == (2, "")
    assert found.err.startswith("error: ")
    assert "fix: " in found.err


def test_a_full_disk_leaves_the_old_file(
    carl: Carl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carl("bundle", "-o", "train.py")
    before = (tmp_path / "train.py").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    found = carl("bundle", "--seed", 8, "-o", "train.py")
    assert found.code == 4
    assert "No space left" in found.err
    assert [path.name for path in tmp_path.iterdir()] == ["train.py"]
    assert (tmp_path / "train.py").read_bytes() == before


def test_check_compares_and_writes_nothing(carl: Carl, tmp_path: Path) -> None:
    assert carl("bundle", "--check").code == 0
    assert carl("bundle", "--check", "-o", "train.py").code == 2
    carl("bundle", "-o", "train.py")
    assert carl("bundle", "--check", "-o", "train.py").code == 0
    found = carl("bundle", "--seed", 1, "--check", "-o", "train.py")
    assert (found.code, found.out) == (1, "")
    assert (tmp_path / "train.py").read_text() == bundle(TrainSpec())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has /dev/full")
def test_a_full_device_behind_stdout_is_one_clear_error() -> None:
    with Path("/dev/full").open("w") as full:
        found = subprocess.run(
            [sys.executable, "-m", "carl_bundle.cli.app", "bundle"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert found.returncode == 4
    assert found.stderr.splitlines() == [
        "error: cannot write the standard output: No space left on device",
        "  fix: free some space and run it again",
    ]


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
def test_a_closed_pipe_is_silent() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    found = subprocess.run(
        [sys.executable, "-m", "carl_bundle.cli.app", "bundle"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert (found.returncode, found.stderr) == (141, "")


def test_the_file_for_accelerate_lies_beside_the_script(
    carl: Carl, tmp_path: Path
) -> None:
    spec = tmp_path / "carl.yaml"
    spec.write_text("method: sft\nmodel: builtin\n")
    script, config = tmp_path / "train.py", tmp_path / "train.accelerate.yaml"
    given = ("bundle", str(spec), "--accelerate")
    assert carl(*given, "-o", str(script)).code == 0
    assert not script.exists()
    assert carl(*given).out == config.read_text()
    assert "distributed_type: MULTI_GPU" in config.read_text()
    spec.write_text("model: builtin\n")
    refused = carl(*given)
    assert refused.code == 2
    assert "a pipeline has several" in refused.err
