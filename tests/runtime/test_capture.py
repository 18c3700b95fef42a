"""The field that is seen while completions are generated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from carl_bundle import TrainSpec
from carl_bundle.recipes import structure
from carl_bundle.spec.defaults import resolve
from carl_runtime_min.capture import CapturedScores
from carl_runtime_min.errors import UsageError
from carl_runtime_min.grpo import CoherentPolicy
from carl_runtime_min.run import read_json
from tests import tiny, trainers


def test_the_difference_to_a_pass_of_its_own_is_measured_once(tmp_path: Path) -> None:
    trainers.grpo(tmp_path, CapturedScores, max_steps=3).train()
    told = read_json(tmp_path / "run.json")["field"]
    assert told["source"] == "generation"
    assert 0 < told["difference"] < 1e-6


def test_another_arithmetic_in_generation_stops_the_run(tmp_path: Path) -> None:
    class Rounding(CapturedScores):
        def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return super()._generate_single_turn(*args, **kwargs)

    with pytest.raises(UsageError, match="generation and scoring differ by") as caught:
        trainers.grpo(tmp_path, Rounding).train()
    assert "carl.field: pass" in caught.value.remedy


def test_only_the_first_batch_costs_a_forward_more(tmp_path: Path) -> None:
    """Of the policy: a token each, the training, and once two comparisons."""

    def forwards(mixin: type) -> int:
        trainer, seen = trainers.grpo(tmp_path / mixin.__name__, mixin, max_steps=3), []
        trainer.model.register_forward_hook(lambda *_: seen.append(1))
        trainer.train()
        return len(seen)

    class Nothing(CapturedScores):
        told = True

    assert forwards(CapturedScores) == forwards(Nothing) + 2  # two heads score it
    recorded = 1  # samples of the first step
    assert forwards(CoherentPolicy) == forwards(Nothing) + 3 + recorded + 1


def test_the_weights_are_those_of_a_pass_given_the_same_rewards(tmp_path: Path) -> None:
    """It only looks: no random number is drawn, no logit changed."""
    found = []
    for mixin in (None, CapturedScores):
        model = tiny.model()
        given: dict[str, Any] = {"model": model, "max_steps": 3}
        if mixin:
            given["carl"] = Silent()
        trainers.grpo(tmp_path / str(mixin is None), mixin, **given).train()
        found.append(model)
    assert trainers.same_weights(*found)


class Silent:
    """Has no opinion, so that the task alone trains."""

    __name__ = "carl"

    def __call__(self, completion_ids: list[Any], **_: Any) -> list[float]:
        return [0.0] * len(completion_ids)


HUB: dict[str, Any] = {
    "model": "org/model",
    "rewards": [{"name": "exact_answer"}],
    "method": "grpo",
}
PLAIN = {"lora": False, "grpo": {"bf16": False}}


@pytest.mark.parametrize(
    ("given", "source"),
    [
        ({"method": "grpo"}, "generation"),
        ({"method": "pipeline"}, "generation"),
        ({"method": "grpo", "carl": {"field": "pass"}}, "pass"),
        ({"method": "grpo", "grpo": {"bf16": True}}, "pass"),
        ({"method": "grpo", "grpo": {"num_iterations": 2}}, "reuse"),
        (
            {
                "method": "grpo",
                "grpo": {"num_iterations": 2},
                "carl": {"field": "generation"},
            },
            "generation",
        ),
        ({"method": "rloo"}, "reuse"),
        ({"method": "rloo", "rloo": {"mask_truncated_completions": True}}, "pass"),
        (HUB, "pass"),
        ({**HUB, **PLAIN}, "generation"),
        ({**HUB, **PLAIN, "lora": {}}, "pass"),
        (
            {**HUB, **PLAIN, "lora": {}, "model": {"id": "a/b", "dtype": "float32"}},
            "generation",
        ),
        ({**HUB, "carl": {"field": "generation"}}, "generation"),
        ({**HUB, **PLAIN, "environments": ["sql"], "rewards": []}, "pass"),
        ({**HUB, **PLAIN, "grpo": {"bf16": False, "vllm": "server"}}, "reuse"),
    ],
)
def test_the_source_is_chosen_when_rendering(given: Any, source: str) -> None:
    choices = structure(resolve(TrainSpec.model_validate(given)))
    names = {"reuse_scores": "reuse", "capture": "generation"}
    assert [names[key] for key in names if choices[key]] == [source] * (
        source != "pass"
    )
