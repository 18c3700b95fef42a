"""The choices that decide which code a script holds; everything else is CONFIG."""

from __future__ import annotations

from typing import get_args

from carl_bundle.recipes.config import templated, thinking
from carl_bundle.spec.blocks import LoraSettings, Scorer
from carl_bundle.spec.phases import RLOOSettings, SampledSettings
from carl_bundle.spec.train_spec import TrainSpec


def adapter(spec: TrainSpec) -> str:
    """What is trained beside the model: "none", or adapters, "auto" or "named"."""
    if not isinstance(spec.lora, LoraSettings):
        return "none"
    return "auto" if spec.lora.targets == "auto" else "named"


def may_think(spec: TrainSpec) -> bool:
    """Whether completions may begin with thinking, whose Phi is told apart."""
    frozen = spec.model.frozen
    able = frozen is not None and frozen.thinking in ("switchable", "always")
    return able and thinking(spec) is not False


def trl_scores_first(phase: SampledSettings) -> bool:
    """Whether TRL itself scores the samples before the rewards are computed.

    RLOO always does, GRPO when a batch of samples outlives one optimizer step. Not
    usable where truncated completions are masked: that pass sees them as padding.
    """
    window = (phase.steps_per_generation or 1) * (phase.num_iterations or 1)
    outlives = (phase.gradient_accumulation_steps or 1) % window != 0
    first = outlives or isinstance(phase, RLOOSettings)
    return first and not phase.mask_truncated_completions


def structure(spec: TrainSpec) -> dict[str, str | bool]:
    """The choices of a resolved spec."""
    method, pipeline = spec.method, spec.method == "pipeline"
    phases = list(spec.phases.values())
    carl = spec.carl.enabled and spec.sampled is not None
    rewards = {reward.name for reward in spec.rewards}
    return {
        "method": method,
        "model": "builtin" if spec.model.is_builtin else "pretrained",
        "adapter": adapter(spec),
        "template": templated(spec),
        "quantized": spec.model.quantize is not None,
        "split_phi": carl and may_think(spec),
        "sft_source": (spec.sft.data or spec.data).source,
        "sampled_source": ((spec.sampled or spec.grpo).data or spec.data).source,
        "preference_source": (phases[-1].data or spec.data).source,
        "eval_source": (spec.eval.data or spec.data).source,
        "gate": spec.gate.mode,
        "gate_required": pipeline and spec.gate.on_miss == "stop",
        "carl": carl,
        "reuse_scores": carl and trl_scores_first(spec.sampled or spec.grpo),
        **{name: name in rewards for name in get_args(Scorer)},
        "named_rewards": bool(rewards - {None}),
        "user_rewards": None in rewards,
        "tracking": spec.report_to != ("none",),
        "baseline": spec.eval.baseline is not None,
        "threshold": spec.eval.threshold is not None,
        "validated": spec.eval.every is not None,
        "patience": spec.eval.patience is not None,
        "push": spec.push.enabled,
    }
