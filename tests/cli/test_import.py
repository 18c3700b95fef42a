"""`carl import` writes a carl.yaml, and says what it left out."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from carl_bundle.spec.load import load
from tests.cli.conftest import Carl

SFT = """\
model_name_or_path: org/model
dataset_name: org/rows
packing: true
learning_rate: 1e-5
gradient_checkpointing: yes
test_split_size: 0.1
"""


def write(folder: Path, text: str, name: str = "other.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_the_spec_is_data_and_the_rest_is_not(carl: Carl, tmp_path: Path) -> None:
    found = carl("import", write(tmp_path, SFT))
    assert found.code == 0
    spec = load(write(tmp_path, found.out, "carl.yaml")).spec
    assert (spec.method, spec.model.id) == ("sft", "org/model")
    assert spec.sft.learning_rate == 1e-5
    assert spec.sft.gradient_checkpointing is True
    assert spec.sft.trainer == {"packing": True}
    assert "note: test_split_size is not taken over: " in found.err


def test_a_script_can_be_rendered_from_it(carl: Carl, tmp_path: Path) -> None:
    """With a model and rows that need no network."""
    text = "model_name_or_path: builtin\ndataset_name: builtin\npacking: false\n"
    assert carl("import", write(tmp_path, text), "-o", "carl.yaml").code == 0
    found = carl("bundle", "carl.yaml")
    assert found.code == 0
    assert "def main(" in found.out


def test_what_is_missing_is_an_error_after_the_spec(carl: Carl, tmp_path: Path) -> None:
    text = "base_model: org/model\nrl: grpo\ndatasets: [{path: org/rows}]\n"
    found = carl("import", write(tmp_path, text))
    assert found.code == 1
    assert "method: grpo" in found.out
    assert "error: rewards: grpo needs at least one task reward" in found.err
    assert "  fix: name a built-in scorer" in found.err
    refused = carl("bundle", write(tmp_path, found.out, "carl.yaml"))
    assert refused.code == 2


@pytest.mark.parametrize(
    ("arguments", "text", "message", "fix"),
    [
        ((), "learning_rate: 1\n", "holds no key that only", "--from"),
        ((), "stage: sft\nrl: dpo\n", "keys of several tools", "--from"),
        ((), "model: a/b\n", "carl.yaml already", "carl bundle"),
        (("--from", "odd"), SFT, "no format 'odd'", "axolotl"),
        (("--method", "ppo"), SFT, "no method 'ppo'", "sft"),
        ((), "dataset_name: a/b\n", "does not say its method", "--method"),
        ((), "rl: simpo\n", "no counterpart of rl: simpo", "--method"),
        ((), "- 1\n", "holds list", "name: value"),
        ((), "a: &x 1\nb: *x\n", "aliases", "correct"),
        ((), "a: !!python/object:os.system 1\n", "could not determine", "correct"),
    ],
)
def test_an_error_of_usage_writes_nothing(
    carl: Carl,
    tmp_path: Path,
    arguments: tuple[str, ...],
    text: str,
    message: str,
    fix: str,
) -> None:
    found = carl("import", write(tmp_path, text), *arguments, "-o", "carl.yaml")
    assert (found.code, found.out) == (2, "")
    assert message in found.err
    assert fix in found.err.partition("fix:")[2]
    assert not (tmp_path / "carl.yaml").exists()


def test_it_never_overwrites_unless_forced(carl: Carl, tmp_path: Path) -> None:
    source = write(tmp_path, SFT)
    mine = write(tmp_path, "mine", "carl.yaml")
    refused = carl("import", source, "-o", mine)
    assert (refused.code, mine.read_text()) == (2, "mine")
    assert "--force" in refused.err
    assert carl("import", source, "-o", mine, "--force").code == 0
    assert load(mine).spec.method == "sft"


def test_it_reads_standard_input(carl: Carl, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin = SimpleNamespace(buffer=io.BytesIO(SFT.encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    found = carl("import", "-", "-o", "-")
    assert found.code == 0
    assert "method: sft" in found.out


def test_the_format_can_be_given(carl: Carl, tmp_path: Path) -> None:
    text = "model_name_or_path: a/b\nlearning_rate: 1\n"
    found = carl("import", write(tmp_path, text), "--from", "llamafactory")
    assert found.code == 1
    assert "error: data.id" in found.err


def test_names_of_settings_cannot_write_to_the_terminal(
    carl: Carl, tmp_path: Path
) -> None:
    found = carl("import", write(tmp_path, SFT + '"\\e[31mred": 1\n'))
    assert "\x1b" not in found.err
    assert "\\x1b[31mred is not taken over" in found.err


def test_the_document_shows_what_is_printed(carl: Carl, tmp_path: Path) -> None:
    document = Path(__file__).parents[2] / "docs" / "import.md"
    text = document.read_text(encoding="utf-8")
    example = text.partition("```yml testable\n")[2].partition("```")[0]
    notes = text.partition("```\nnote: ")[2].partition("```")[0]
    found = carl("import", write(tmp_path, example))
    assert (found.code, found.err) == (0, f"note: {notes}")
