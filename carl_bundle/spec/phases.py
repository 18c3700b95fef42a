"""The training phases of a `carl.yaml`: `sft` and `grpo`.

A field left out (None) takes its value from `carl_bundle.spec.defaults`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from carl_bundle.spec.blocks import Block, DataSettings, NonNegative, Positive

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
    logging_steps: Positive | None = None
    save_steps: Positive | None = None
    save_total_limit: Positive | None = None
    gradient_checkpointing: bool | None = None
    bf16: bool | None = None
    trainer: dict[str, Any] = Field(default_factory=dict)


class SFTSettings(PhaseSettings):
    """Supervised fine-tuning."""


class GRPOSettings(PhaseSettings):
    """Reinforcement learning with group-relative advantages."""

    num_generations: Annotated[int, Field(ge=2, le=4096)] | None = None
    max_completion_length: Positive | None = None
    temperature: PositiveFloat | None = None
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    top_k: NonNegative | None = None
    beta: NonNegativeFloat | None = None
    loss_type: GRPOLoss | None = None
    scale_rewards: Literal["group", "batch", "none"] | None = None
    num_iterations: Positive | None = None
    steps_per_generation: Positive | None = None
    mask_truncated_completions: bool | None = None
    multi_objective_aggregation: (
        Literal["sum_then_normalize", "normalize_then_sum"] | None
    ) = None
