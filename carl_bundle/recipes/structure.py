"""The choices that decide which code a script holds; everything else is CONFIG."""

from __future__ import annotations

from carl_bundle.spec.blocks import DataSettings, LoraSettings
from carl_bundle.spec.phases import RLOOSettings, SampledSettings
from carl_bundle.spec.train_spec import TrainSpec


def source_kind(data: DataSettings | None) -> str:
    """Where rows come from: "builtin", "file" or "hub"."""
    if data is None or data.is_builtin:
        return "builtin"
    return "file" if data.is_file else "hub"


def adapter(spec: TrainSpec) -> str:
    """What is trained beside the model: "none", or adapters, "auto" or "named"."""
    if not isinstance(spec.lora, LoraSettings):
        return "none"
    return "auto" if spec.lora.targets == "auto" else "named"


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
        "sft_source": source_kind(spec.sft.data),
        "sampled_source": source_kind((spec.sampled or spec.grpo).data),
        "preference_source": source_kind(phases[-1].data),
        "eval_source": source_kind(spec.eval.data),
        "gate": spec.gate.mode,
        "gate_required": pipeline and spec.gate.on_miss == "stop",
        "carl": carl,
        "reuse_scores": carl and trl_scores_first(spec.sampled or spec.grpo),
        "exact_answer": "exact_answer" in rewards,
        "pattern": "pattern" in rewards,
        "length": "length" in rewards,
        "user_rewards": None in rewards,
        "tracking": spec.report_to != ("none",),
        "baseline": spec.eval.baseline is not None,
        "threshold": spec.eval.threshold is not None,
        "push": spec.push.enabled,
    }
