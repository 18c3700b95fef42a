"""The one place for default numbers: `resolve` fills every None from here."""

from __future__ import annotations

from typing import Any, TypeVar

from carl_bundle.spec.blocks import LoraSettings, Reward
from carl_bundle.spec.class_limits import checkpointing_fault
from carl_bundle.spec.phases import KINDS, PhaseSettings, SampledSettings
from carl_bundle.spec.train_spec import TrainSpec

EMBEDDED_SFT: dict[str, Any] = {
    "max_steps": 400,
    "learning_rate": 2e-3,
    "per_device_train_batch_size": 64,
    "gradient_accumulation_steps": 1,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 20,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "max_length": 128,
    "logging_steps": 1,
    "save_steps": 100,
    "save_total_limit": 2,
    "gradient_checkpointing": False,
    "bf16": False,
}
"""SFT of the built-in model: token accuracy crystallises before the last step."""

EMBEDDED_GRPO: dict[str, Any] = {
    "max_steps": 80,
    "learning_rate": 2e-4,
    "per_device_train_batch_size": 128,
    "gradient_accumulation_steps": 1,
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "max_length": 128,
    "logging_steps": 1,
    "save_steps": 40,
    "save_total_limit": 2,
    "gradient_checkpointing": False,
    "bf16": False,
    "num_generations": 8,
    "max_completion_length": 8,
}
"""GRPO and RLOO of the built-in model: 16 prompts of 8 completions a step."""

SFT: dict[str, Any] = {
    "num_train_epochs": 1.0,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.03,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "max_length": 1024,
    "logging_steps": 1,
    "save_steps": 50,
    "save_total_limit": 2,
    "gradient_checkpointing": True,
}
"""SFT of any other model."""

GRPO: dict[str, Any] = {
    "num_train_epochs": 1.0,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 4,
    "lr_scheduler_type": "constant_with_warmup",
    "warmup_steps": 10,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "max_length": 2048,
    "logging_steps": 1,
    "save_steps": 50,
    "save_total_limit": 2,
    "gradient_checkpointing": True,
    "num_generations": 8,
    "max_completion_length": 512,
}
"""GRPO and RLOO of any other model."""

SAMPLED: dict[str, Any] = {
    "too_long": "drop",
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "beta": 0.0,
    "num_iterations": 1,
    "mask_truncated_completions": False,
}
"""Settings of sampling phases that do not depend on the model."""

OWN: dict[str, dict[str, Any]] = {
    "sft": {"too_long": "truncate"},
    "grpo": {
        **SAMPLED,
        "loss_type": "dapo",
        "scale_rewards": "group",
        "multi_objective_aggregation": "sum_then_normalize",
    },
    "rloo": {**SAMPLED, "normalize_advantages": False},
    "dpo": {"too_long": "truncate", "beta": 0.1, "loss_type": ("sigmoid",)},
    "kto": {"too_long": "truncate", "beta": 0.1, "loss_type": "kto"},
    "orpo": {"too_long": "truncate", "beta": 0.1},
}
"""Settings of each phase that do not depend on the model."""

PREFERENCE = {**SFT, "warmup_steps": 0.1}
EMBEDDED_PREFERENCE = {**EMBEDDED_SFT, "max_steps": 100, "learning_rate": 5e-4}

EMBEDDED: dict[str, dict[str, Any]] = {
    "sft": EMBEDDED_SFT,
    "grpo": EMBEDDED_GRPO,
    "rloo": EMBEDDED_GRPO,
    "dpo": EMBEDDED_PREFERENCE,
    "kto": {**EMBEDDED_PREFERENCE, "learning_rate": 1e-3, "beta": 0.5},
    "orpo": EMBEDDED_PREFERENCE,
}
"""Numbers for the built-in model."""

OTHER: dict[str, dict[str, Any]] = {
    "sft": SFT,
    "grpo": GRPO,
    "rloo": GRPO,
    "dpo": PREFERENCE,
    "kto": PREFERENCE,
    "orpo": PREFERENCE,
}
"""Numbers for any other model."""

RATES = {
    "sft": (2e-5, 2e-4),
    "grpo": (1e-6, 1e-5),
    "rloo": (1e-6, 1e-5),
    "dpo": (1e-6, 1e-5),
    "kto": (1e-6, 1e-5),
    "orpo": (8e-6, 8e-5),
}
"""Its learning rates: of all weights, and of adapters (about ten times as high)."""

EMBEDDED_EVAL_ITEMS = 1000
EVAL_ITEMS = 200

PhaseT = TypeVar("PhaseT", bound=PhaseSettings)


def resolve(spec: TrainSpec) -> TrainSpec:
    """Return the spec with every None filled that has a default.

    What stays None has no value to give: `bf16` (decided on the machine that
    trains), the half of `max_steps` / `num_train_epochs` that was not chosen,
    revisions and digests (see `carl_bundle.spec.freeze`).
    """
    embedded = spec.model.is_builtin
    lora = spec.lora
    if lora is None:
        lora = False if embedded else LoraSettings()
    phases = {name: _phase(spec, name, bool(lora)) for name in KINDS}
    last_data = list(spec.phases.values())[-1].data or spec.data
    eval_data = spec.eval.data or last_data
    rewards = spec.rewards
    if not rewards and not spec.environments and spec.sampled and last_data.is_builtin:
        rewards = (Reward(name="exact_answer"),)
    stop = spec.gate.stop
    return spec.model_copy(
        update={
            "lora": lora,
            **phases,
            "rewards": rewards,
            "gate": spec.gate.model_copy(
                update={"stop": spec.method == "pipeline" if stop is None else stop}
            ),
            "eval": spec.eval.model_copy(
                update={
                    "data": eval_data,
                    "items": spec.eval.items
                    or (EMBEDDED_EVAL_ITEMS if embedded else EVAL_ITEMS),
                    **_validation(spec),
                }
            ),
            "output_dir": spec.run_dir,
        }
    )


def _validation(spec: TrainSpec) -> dict[str, Any]:
    """Defaults of an evaluation in the course of training, if there is one."""
    given = spec.eval
    if given.every is None:
        return {}
    metric = given.metric or ("reward" if spec.sampled else "loss")
    return {
        "metric": f"eval_{metric.removeprefix('eval_')}",
        "best": True if given.best is None else given.best,
    }


def _phase(spec: TrainSpec, name: str, lora: bool) -> PhaseSettings:
    """A phase of the spec, whether it runs or not, with every default."""
    chosen: PhaseSettings = getattr(spec, name)
    numbers = {**OTHER[name], "learning_rate": RATES[name][lora]}
    if spec.model.is_builtin:
        numbers = EMBEDDED[name]
    elif checkpointing_fault(spec):
        numbers["gradient_checkpointing"] = False
    filled = _fill(spec, chosen, {**OWN[name], **numbers})
    if isinstance(chosen, SampledSettings) and isinstance(filled, SampledSettings):
        return _fit_groups(spec, chosen, filled)
    return _fit_context(spec, chosen, filled)


def _fill(spec: TrainSpec, phase: PhaseT, numbers: dict[str, Any]) -> PhaseT:
    """Fill the None fields of a phase; a chosen horizon keeps the other one None."""
    update: dict[str, Any] = {
        key: value for key, value in numbers.items() if getattr(phase, key) is None
    }
    if phase.max_steps is not None or phase.num_train_epochs is not None:
        update.pop("max_steps", None)
        update.pop("num_train_epochs", None)
    if phase.data is None:
        update["data"] = spec.data
    if phase.too_long is None and spec.vision:
        update["too_long"] = "drop"  # a cut could fall into an image
    every = spec.eval.every
    if phase.save_steps is None and every is not None:
        update["save_steps"] = every  # the best checkpoint has to be one
    return phase.model_copy(update=update)


def _fit_groups(
    spec: TrainSpec, chosen: SampledSettings, grpo: SampledSettings
) -> SampledSettings:
    """Adjust defaults to what the spec chose: groups, windows, lengths."""
    update: dict[str, Any] = {}
    if chosen.steps_per_generation is None:
        # TRL's rule: one generation an optimizer step.
        update["steps_per_generation"] = grpo.gradient_accumulation_steps
    if chosen.per_device_train_batch_size is None:
        update["per_device_train_batch_size"] = _multiple(
            grpo.per_device_train_batch_size, grpo.num_generations
        )
    completion = grpo.max_completion_length or 1
    if chosen.max_length is None and chosen.max_completion_length is not None:
        # As much room for the prompt as for a long completion.
        update["max_length"] = max(grpo.max_length or 1, 2 * completion)
    grpo = _fit_context(spec, chosen, grpo.model_copy(update=update))
    update = {}
    if chosen.max_completion_length is None and grpo.max_length is not None:
        update["max_completion_length"] = min(completion, max(1, grpo.max_length // 2))
    return grpo.model_copy(update=update)


def _fit_context(spec: TrainSpec, chosen: PhaseT, filled: PhaseT) -> PhaseT:
    """A default length never exceeds the context of a model that is known."""
    limit = spec.model.frozen and spec.model.frozen.context_length
    if chosen.max_length is not None or not limit:
        return filled
    length = min(filled.max_length or limit, limit)
    return filled.model_copy(update={"max_length": length})


def _multiple(number: int | None, unit: int | None) -> int:
    """Return the multiple of `unit` nearest below `number`, at least one `unit`."""
    unit = unit or 1
    return max(1, (number or unit) // unit) * unit
