"""The JSON Schema says what TrainSpec accepts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from carl_bundle.errors import SpecError
from carl_bundle.spec.schema import json_schema, render_schema
from carl_bundle.spec.train_spec import TrainSpec

PUBLISHED = Path(__file__).parents[2] / "docs" / "carl.schema.json"


def test_the_published_schema_is_current() -> None:
    assert (
        PUBLISHED.read_text(encoding="utf-8") == render_schema()
    ), "docs/carl.schema.json is out of date: run `make tables`"


def test_the_schema_is_a_valid_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(render_schema()))


@pytest.mark.parametrize(
    ("document", "valid"),
    [
        ({}, True),
        ({"model": "a/b", "data": "c/d", "method": "sft"}, True),
        ({"model": {"id": "a/b"}, "report_to": "wandb", "method": "sft"}, True),
        ({"carl": {"weights": [1, 0, 0]}, "lora": {"targets": ["a"]}}, True),
        ({"lora": False}, True),
        ({"sed": 1}, False),
        ({"method": "ppo"}, False),
        ({"grpo": {"num_generations": 1}}, False),
        ({"carl": {"weights": [1, 0]}}, False),
        ({"name": "a b"}, False),
    ],
)
def test_schema_and_spec_agree(document: dict[str, Any], valid: bool) -> None:
    validator = jsonschema.Draft202012Validator(json_schema())

    assert validator.is_valid(document) is valid
    if valid:
        document = {**document, "rewards": [{"name": "exact_answer"}]}
        TrainSpec.model_validate(document)
    else:
        with pytest.raises(SpecError):
            TrainSpec.model_validate(document)
