"""The training phases of a `carl.yaml`, such as `sft` and `grpo`.

A field left out (None) takes its value from `carl_bundle.spec.defaults`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from carl_bundle.spec.blocks import Block, DataSettings, NonNegative, Positive
from carl_bundle.spec.text import AS_TUPLE

Schedule = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
    "cosine_with_min_lr",
    "cosine_warmup_with_min_lr",
    "warmup_stable_decay",
]
GRPOLoss = Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo"]
DPOLoss = Literal[
    "sigmoid",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sft",
    "sigmoid_norm",
]
NonNegativeFloat = Annotated[float, Field(ge=0.0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]


class PhaseSettings(Block):
    """What every training phase has in common."""

    data: DataSettings | None = None
    max_steps: Positive | None = None
    num_train_epochs: PositiveFloat | None = None
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    per_device_train_batch_size: Positive | None = None
    gradient_accumulation_steps: Positive | None = None
    lr_scheduler_type: Schedule | None = None
    warmup_steps: NonNegative | Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    weight_decay: NonNegativeFloat | None = None
    max_grad_norm: NonNegativeFloat | None = None
    max_length: Positive | None = None
    too_long: Literal["truncate", "drop", "refuse"] | None = None
    logging_steps: Positive | None = None
    save_steps: Positive | None = None
    save_total_limit: Positive | None = None
    gradient_checkpointing: bool | None = None
    bf16: bool | None = None
    trainer: dict[str, Any] = Field(default_factory=dict)


class SFTSettings(PhaseSettings):
    """Supervised fine-tuning."""


class PreferenceSettings(PhaseSettings):
    """What the methods that learn from preferred answers have in common."""

    beta: PositiveFloat | None = None


class DPOSettings(PreferenceSettings):
    """Direct preference optimisation: pairs of a chosen and a rejected answer."""

    loss_type: Annotated[tuple[DPOLoss, ...], Field(min_length=1), AS_TUPLE] | None = (
        None
    )

    @field_validator("loss_type", mode="before")
    @classmethod
    def _one_loss(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class KTOSettings(PreferenceSettings):
    """Kahneman-Tversky optimisation: answers that are good or bad, unpaired."""

    loss_type: Literal["kto", "apo_zero_unpaired"] | None = None


class ORPOSettings(PreferenceSettings):
    """Odds-ratio preference optimisation: pairs, without a reference model."""


class SampledSettings(PhaseSettings):
    """What the methods that sample groups of completions have in common."""

    num_generations: Annotated[int, Field(ge=2, le=4096)] | None = None
    max_completion_length: Positive | None = None
    temperature: PositiveFloat | None = None
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    top_k: NonNegative | None = None
    beta: NonNegativeFloat | None = None
    num_iterations: Positive | None = None
    steps_per_generation: Positive | None = None
    mask_truncated_completions: bool | None = None
    vllm: Literal["colocate", "server"] | None = None


class GRPOSettings(SampledSettings):
    """Reinforcement learning with group-relative advantages."""

    loss_type: GRPOLoss | None = None
    scale_rewards: Literal["group", "batch", "none"] | None = None
    multi_objective_aggregation: (
        Literal["sum_then_normalize", "normalize_then_sum"] | None
    ) = None


class RLOOSettings(SampledSettings):
    """Reinforcement learning against the mean of the other completions."""

    normalize_advantages: bool | None = None


KINDS: dict[str, type[PhaseSettings]] = {
    "sft": SFTSettings,
    "grpo": GRPOSettings,
    "rloo": RLOOSettings,
    "dpo": DPOSettings,
    "kto": KTOSettings,
    "orpo": ORPOSettings,
}
"""The settings of every phase, by its name in a spec."""

PAIRS = ("prompt", "chosen", "rejected")
COLUMNS: dict[str, tuple[str, ...]] = {
    "dpo": PAIRS,
    "orpo": PAIRS,
    "kto": ("prompt", "completion", "label"),
}
"""The columns of rows of preferences; a conversation may hold its prompt itself."""

RUNS = {name: (name,) for name in KINDS} | {"pipeline": ("sft", "grpo")}
"""The training phases of each method, in order."""
