"""`trainer:` takes any field of the pinned TRL config that CARL has no name for."""

from __future__ import annotations

from typing import Any

import pytest

from carl_bundle.errors import Problem, SpecError
from carl_bundle.spec.passthrough import CONTROLLED, DEPRECATED
from carl_bundle.spec.tables import table
from carl_bundle.spec.train_spec import TrainSpec


def problems_of(phase: str, name: str, value: Any) -> list[Problem]:
    try:
        TrainSpec.model_validate({phase: {"trainer": {name: value}}})
    except SpecError as error:
        return list(error.problems)
    return []


@pytest.mark.parametrize(
    ("phase", "name", "value"),
    [
        ("sft", "packing", True),
        ("sft", "neftune_noise_alpha", 5),
        ("sft", "loss_type", "dft"),
        ("grpo", "epsilon", 0.3),
        ("grpo", "epsilon_high", None),
        ("grpo", "generation_kwargs", {"min_new_tokens": 4, "stop": ["a", "b"]}),
        ("grpo", "optim", "adafactor"),
        ("grpo", "log_completions", True),
        ("grpo", "ddp_timeout", 600),
    ],
)
def test_a_field_of_trl_passes(phase: str, name: str, value: Any) -> None:
    assert problems_of(phase, name, value) == []


@pytest.mark.parametrize(
    ("phase", "name", "value", "message", "remedy"),
    [
        ("grpo", "epsilonn", 1, "no such field in GRPOConfig", "'epsilon'"),
        ("sft", "epsilon", 1.0, "no such field in SFTConfig", ""),
        ("grpo", "epsilon", "0.3", "expected float, got str", ""),
        ("grpo", "epsilon", True, "expected float, got bool", ""),
        ("sft", "packing", 1, "expected bool, got int", ""),
        ("sft", "optim", "adam", "none of TRL's choices", "did you mean"),
        ("sft", "truncation_mode", "end", "none of TRL's choices", "keep_end"),
        ("grpo", "epsilon", float("inf"), "finite", ""),
        ("grpo", "generation_kwargs", {"a": float("nan")}, "finite", ""),
        ("grpo", "generation_kwargs", {3: 1}, "not a string", ""),
        ("grpo", "generation_kwargs", {"a": "\ud800"}, "surrogate", ""),
        ("grpo", "parallelism_config", {}, "expected null", ""),
        ("grpo", "learning_rate", 1e-5, "its own name", "set grpo.learning_rate"),
        ("sft", "bf16", True, "its own name", "set sft.bf16"),
        ("grpo", "output_dir", "x", "CARL controls", "set output_dir"),
        ("grpo", "reward_weights", [1.0], "CARL controls", "rewards[].weight"),
        ("sft", "report_to", "wandb", "CARL controls", "set report_to"),
        ("sft", "seed", 3, "CARL controls", "set seed"),
        ("sft", "hub_token", "x", "CARL controls", "HF_TOKEN"),
        ("sft", "resume_from_checkpoint", "x", "CARL controls", "--resume"),
        ("grpo", "sync_ref_model", True, "CARL controls", "no checkpoint"),
        ("sft", "use_liger_kernel", True, "deprecates", "remove it"),
        ("grpo", "vllm_importance_sampling_cap", 2.0, "deprecates", "_clip_max"),
        ("sft", "loss_type", "chunked_nll", "deprecates", "use 'nll'"),
    ],
)
def test_what_does_not_pass_is_explained(
    phase: str, name: str, value: Any, message: str, remedy: str
) -> None:
    (problem,) = problems_of(phase, name, value)

    assert problem.where == f"{phase}.trainer.{name}"
    assert message in problem.message
    assert remedy in problem.remedy


def test_deep_nesting_is_refused() -> None:
    value: Any = 1
    for _ in range(20):
        value = {"a": value}
    (problem,) = problems_of("grpo", "generation_kwargs", value)

    assert "levels deep" in problem.message


def test_every_field_that_carl_controls_exists_in_trl() -> None:
    fields = table("trl_fields.json")
    known = fields["sft"].keys() | fields["grpo"].keys()

    assert set(CONTROLLED) | set(DEPRECATED) <= known
