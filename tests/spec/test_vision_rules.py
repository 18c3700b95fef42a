"""Rules for rows with images: each broken one is named, with a way out that works."""

from __future__ import annotations

from typing import Any

import pytest

from carl_bundle.errors import SpecError
from carl_bundle.spec.defaults import resolve
from carl_bundle.spec.train_spec import TrainSpec

ROWS = {"id": "rows.jsonl", "columns": {"image": "image"}}
TEXT = {"id": "rows.jsonl"}


def seeing(**fields: Any) -> dict[str, Any]:
    return {"model": "org/model", "data": ROWS, "method": "sft", **fields}


def model(kind: str, architecture: str) -> dict[str, Any]:
    frozen = {"model_type": kind, "architecture": architecture}
    return {"id": "org/model", "frozen": {"config_sha256": "0" * 64, **frozen}}


def columns(*names: str) -> dict[str, Any]:
    return {"id": "rows.jsonl", "columns": {name: name for name in names}}


BLIND = model("qwen3_5", "Qwen3_5ForCausalLM")
QWEN = model("qwen3_5", "Qwen3_5ForConditionalGeneration")
# its auto class of text and that of images and text are one
GEMMA = model("gemma4", "Gemma4ForConditionalGeneration")
EVALUATED = {"every": 10, "data": "held.jsonl"}
SEEN = {"every": 10, "data": {**ROWS, "id": "held.jsonl"}}
SHORT: dict[str, Any] = {"rewards": [{"name": "coordinate_format"}]}

# where -> (a spec that breaks the rule, a word of the remedy, the spec it leads to)
BROKEN: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    (
        "data.columns, method",
        seeing(method="pipeline", **SHORT),
        "method: sft",
        seeing(method="sft"),
    ),
    ("data.columns, method", seeing(method="orpo"), "choose dpo", seeing(method="dpo")),
    ("model.id", seeing(model="builtin"), "images and text", seeing()),
    ("model.id", seeing(model=BLIND), "ForConditionalGeneration", seeing(model=QWEN)),
    (
        "model.id",
        seeing(model=model("qwen3", "Qwen3ForCausalLM")),
        "images and text",
        seeing(model=GEMMA),
    ),
    (
        "sft.too_long",
        seeing(sft={"too_long": "truncate"}),
        "drop",
        seeing(sft={"too_long": "refuse"}),
    ),
    ("sft.trainer", seeing(sft={"trainer": {"packing": True}}), "packing", seeing()),
    (
        "data.columns",
        seeing(data=columns("image", "images")),
        "a list in a row",
        seeing(data=columns("images")),
    ),
    (
        "eval.data.columns",
        seeing(eval=EVALUATED),
        "column of images",
        seeing(eval=SEEN),
    ),
    (
        "eval.data.columns",
        seeing(data=TEXT, eval=SEEN),
        "too",
        seeing(data=ROWS, eval=SEEN),
    ),
    ("data.mix", seeing(data=[ROWS, TEXT]), "one file", seeing(data=ROWS)),
    (
        "data.columns.tools",
        seeing(data=columns("messages", "image", "tools")),
        "remove",
        seeing(data=columns("messages", "image")),
    ),
    (
        "data.columns, tools, environments",
        seeing(method="grpo", tools=["tools.py:read"], **SHORT),
        "remove",
        seeing(method="grpo", **SHORT),
    ),
]


@pytest.mark.parametrize(("where", "broken", "remedy", "fixed"), BROKEN)
def test_a_broken_rule_is_named_with_a_way_out(
    where: str, broken: dict[str, Any], remedy: str, fixed: dict[str, Any]
) -> None:
    with pytest.raises(SpecError) as caught:
        TrainSpec.model_validate(broken)
    found = {problem.where: problem for problem in caught.value.problems}
    assert where in found
    assert remedy in found[where].remedy
    assert TrainSpec.model_validate(fixed).vision or "data" in where


@pytest.mark.parametrize("method", ["sft", "grpo", "rloo", "dpo", "kto"])
def test_rows_with_images_are_never_cut(method: str) -> None:
    spec = TrainSpec.model_validate(seeing(method=method, **SHORT))
    assert resolve(spec).phases[method].too_long == "drop"
