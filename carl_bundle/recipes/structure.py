"""The choices that decide which code a script holds; everything else is CONFIG."""

from __future__ import annotations

from typing import get_args

from carl_bundle.recipes.config import templated, thinking
from carl_bundle.recipes.rows import streams
from carl_bundle.spec.blocks import LoraSettings, Scorer
from carl_bundle.spec.class_limits import limits_of
from carl_bundle.spec.phases import PhaseSettings, RLOOSettings, SampledSettings
from carl_bundle.spec.reward_rules import generation_faults
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

    RLOO always does, GRPO when a batch of samples outlives one optimizer step, or was
    drawn by vLLM and is weighed for that. Not usable where truncated completions are
    masked: that pass sees them as padding.
    """
    window = (phase.steps_per_generation or 1) * (phase.num_iterations or 1)
    outlives = (phase.gradient_accumulation_steps or 1) % window != 0
    corrected = phase.trainer.get("vllm_importance_sampling_correction", True)
    sampled_elsewhere = phase.vllm is not None and corrected
    first = outlives or sampled_elsewhere or isinstance(phase, RLOOSettings)
    return first and not phase.mask_truncated_completions


def source(spec: TrainSpec, phase: PhaseSettings) -> str:
    """The kind of the rows of a phase; of a mixture "mix" and the kinds, in order.

    The rows to evaluate are loaded by the same function.
    """
    data = phase.data or spec.data
    if data.mix is None or spec.eval.every is None:
        return data.source
    kinds = {one.source for one in (*data.sources, *(spec.eval.data or data).sources)}
    return "_".join(["mix", *sorted(kinds)])


def float32_throughout(spec: TrainSpec, phase: SampledSettings) -> bool:
    """Whether tokens are drawn by the numbers that the trainer scores them with.

    Where autocast or a smaller dtype may round, generation and scoring differ.
    """
    model, adapters = spec.model, bool(spec.lora)
    full = model.dtype == "float32" or (model.dtype == "auto" and not adapters)
    return full and phase.bf16 is False and model.quantize is None


def field_source(spec: TrainSpec) -> str:
    """Where the field of the samples comes from: "reuse", "generation" or "pass"."""
    phase, chosen = spec.sampled or spec.grpo, spec.carl.field
    if chosen == "auto" and trl_scores_first(phase):
        return "reuse"
    fits = not generation_faults(spec, phase) and float32_throughout(spec, phase)
    captured = chosen == "generation" or (chosen == "auto" and fits)
    return "generation" if captured else "pass"


def structure(spec: TrainSpec) -> dict[str, str | bool]:
    """The choices of a resolved spec."""
    method, pipeline = spec.method, spec.method == "pipeline"
    phases = list(spec.phases.values())
    carl = spec.carl.enabled and spec.sampled is not None
    rewards = {reward.name for reward in spec.rewards}
    environments = {one.name for one in spec.environments}
    return {
        "method": method,
        "model": "builtin" if spec.model.is_builtin else "pretrained",
        "adapter": adapter(spec),
        "template": templated(spec),
        "decoder": "decoder" in limits_of(spec.model),
        "vision": spec.vision,
        "vllm": spec.sampled is not None and spec.sampled.vllm is not None,
        "quantized": spec.model.quantize is not None,
        "sharded": spec.sharding != "none",
        "split_phi": carl and may_think(spec),
        "sft_source": source(spec, spec.sft),
        "streaming": "sft" in spec.phases and streams(spec, spec.sft),
        "sampled_source": source(spec, spec.sampled or spec.grpo),
        "preference_source": source(spec, phases[-1]),
        "eval_source": (spec.eval.data or spec.data).source,
        "gate": spec.gate.mode,
        "gate_required": pipeline and spec.gate.on_miss == "stop",
        "carl": carl,
        "reuse_scores": carl and field_source(spec) == "reuse",
        "capture": carl and field_source(spec) == "generation",
        **{name: name in rewards for name in get_args(Scorer)},
        "named_rewards": bool(rewards - {None}),
        "user_rewards": None in rewards,
        "tool_use": spec.calls_tools,
        "environments": bool(spec.environments),
        "python_environment": "python" in environments,
        "sql_environment": "sql" in environments,
        "user_environments": None in environments,
        "stall": spec.stall_timeout is not None,
        "tracking": spec.report_to != ("none",),
        "baseline": spec.eval.baseline is not None,
        "threshold": spec.eval.threshold is not None,
        "validated": spec.eval.every is not None,
        "patience": spec.eval.patience is not None,
        "push": spec.push.enabled,
    }
