"""`carl init` writes a carl.yaml that works."""

from __future__ import annotations

from pathlib import Path

import jsonschema

from carl_bundle.spec.load import load
from carl_bundle.spec.schema import json_schema
from carl_bundle.spec.train_spec import TrainSpec
from carl_bundle.spec.yaml import parse
from tests.cli.conftest import Carl


def test_what_it_writes_is_the_embedded_default(carl: Carl, tmp_path: Path) -> None:
    result = carl("init")

    assert result.code == 0
    assert result.out == ""
    assert "carl bundle carl.yaml" in result.err
    assert load(tmp_path / "carl.yaml").spec == TrainSpec()


def test_every_commented_line_is_valid_when_uncommented(
    carl: Carl, tmp_path: Path
) -> None:
    """Each example in the comments is a setting that the schema knows."""
    text = carl("init", "-o", "-").out
    examples = [
        "model: {id: HuggingFaceTB/SmolLM2-135M-Instruct, revision: main, dtype: auto}",
        "lora: {r: 16, alpha: 32, targets: auto}",
        "sft: {max_steps: 400, learning_rate: 2.0e-4, trainer: {packing: true}}",
    ]
    validator = jsonschema.Draft202012Validator(json_schema())

    assert validator.is_valid(parse(text, "carl.yaml"))
    for example in examples:
        assert validator.is_valid(parse(example, "example"))
        name = example.partition(":")[0]
        assert f"# {name}:" in text


def test_it_never_overwrites_unless_forced(carl: Carl, tmp_path: Path) -> None:
    path = tmp_path / "carl.yaml"
    path.write_text("mine")

    refused = carl("init")
    assert refused.code == 2
    assert "--force" in refused.err
    assert path.read_text() == "mine"

    assert carl("init", "--force").code == 0
    assert path.read_text() != "mine"


def test_a_place_that_cannot_be_written_is_one_error(
    carl: Carl, tmp_path: Path
) -> None:
    result = carl("init", "-o", tmp_path / "no" / "carl.yaml")

    assert result.code == 2
    assert result.err.startswith("error: cannot write")
    assert list(tmp_path.iterdir()) == []
