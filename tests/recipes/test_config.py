"""What of a spec reaches the CONFIG of its script."""

from __future__ import annotations

from typing import Any

import pytest

from carl_bundle.recipes import plan
from carl_bundle.spec.phases import KINDS
from carl_bundle.spec.train_spec import TrainSpec

COMMIT = "0123456789" * 4
PINNED: dict[str, Any] = {
    "model": {"id": "org/model", "frozen": {"commit": COMMIT}},
    "data": "rows.jsonl",
    "rewards": [{"name": "exact_answer"}],
    "lora": False,
}


def config(**fields: Any) -> dict[str, Any]:
    return plan(TrainSpec.model_validate(fields)).config


@pytest.mark.parametrize("method", KINDS)
def test_every_method_has_a_phase_with_its_columns(method: str) -> None:
    made = config(method=method)
    assert set(KINDS) & set(made) == {method}
    assert made[method]["result"] == "model"
    assert made[method]["rows"] > 0
    named = config(**PINNED, method=method)[method]["data"]["columns"]
    expected = {
        "sft": [],
        "grpo": ["prompt"],
        "rloo": ["prompt"],
        "dpo": ["prompt", "chosen", "rejected"],
        "orpo": ["prompt", "chosen", "rejected"],
        "kto": ["prompt", "completion", "label"],
    }
    assert list(named) == list(named.values()) == expected[method]


@pytest.mark.parametrize("method", KINDS)
@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_a_reference_model_has_the_revision_of_the_policy(
    method: str, beta: float
) -> None:
    """TRL loads it by the model's name alone, which would be the newest revision."""
    settings = {} if method == "sft" or not beta else {method: {"beta": beta}}
    trainer = config(**PINNED, method=method, **settings)[method]["trainer"]
    loaded = method in ("dpo", "kto") or (beta and method in ("grpo", "rloo"))
    expected = {"revision": COMMIT} if loaded else None
    assert trainer.get("model_init_kwargs") == expected
    adapters = config(**{**PINNED, "lora": {"r": 4}}, method=method, **settings)
    assert "model_init_kwargs" not in adapters[method]["trainer"]


def test_the_reference_of_a_pipeline_is_the_result_of_its_first_phase() -> None:
    trainer = config(**PINNED, grpo={"beta": 0.1})["grpo"]["trainer"]
    assert trainer["beta"] == 0.1
    assert "model_init_kwargs" not in trainer


def test_only_methods_that_sample_carry_rewards_and_the_cascade() -> None:
    for method in KINDS:
        block = config(method=method)[method]
        sampled = method in ("grpo", "rloo")
        assert {"rewards", "carl", "cascade", "samples_every"} & set(block) == (
            {"rewards", "carl", "cascade", "samples_every"} if sampled else set()
        )
        assert ("gate" in block) == (method == "sft")
