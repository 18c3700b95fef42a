"""`trainer:` of a phase: fields of TRL's config that CARL has no name for.

Checked against a generated table, so that a typo or a wrong type is found before
a GPU is rented, without importing torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from carl_bundle.errors import Problem
from carl_bundle.spec.names import nearest
from carl_bundle.spec.phases import PhaseSettings
from carl_bundle.spec.tables import table
from carl_bundle.spec.text import check_text

MAX_DEPTH = 8
"""Deepest nesting of a free value, such as those of `trainer`."""

_RESUME = "remove it: the script checkpoints and resumes by itself (--resume)"
_PUSH = "remove it and set push.enabled, push.repo and push.private"
_EVAL = "remove it and set eval.every, eval.metric, eval.best"
_COLUMNS = "remove it and set data.columns"
_MACHINE = "remove it: the script decides on the machine that trains"

CONTROLLED = {
    "output_dir": "set output_dir",
    "run_name": "set name",
    "report_to": "set report_to",
    "seed": "set seed",
    "data_seed": "set seed",
    "use_vllm": "set {phase}.vllm",
    "vllm_mode": "set {phase}.vllm",
    "reward_weights": "set rewards[].weight and carl.weight",
    "generation_batch_size": "set {phase}.steps_per_generation",
    "model_init_kwargs": "set model.dtype, model.attention and model.revision",
    "trust_remote_code": "set model.trust_remote_code",
    "chat_template_path": "set model.chat_template",
    "chat_template_kwargs": "set model.thinking, or model.chat_template",
    "eos_token": "set model.tokenizer",
    "dataset_text_field": _COLUMNS,
    "remove_unused_columns": _COLUMNS,
    "label_names": _COLUMNS,
    "activation_checkpointing": "set {phase}.gradient_checkpointing",
    "fp16": "set {phase}.bf16, or neither",
    "use_cpu": _MACHINE,
    "local_rank": _MACHINE,
    "logging_strategy": "set {phase}.logging_steps",
    "save_strategy": "set {phase}.save_steps",
    "save_only_model": _RESUME,
    "resume_from_checkpoint": _RESUME,
    "ignore_data_skip": _RESUME,
    "restore_callback_states_from_checkpoint": _RESUME,
    "enable_jit_checkpoint": _RESUME,
    "sync_ref_model": "remove it: no checkpoint holds a reference model that changes",
    "push_to_hub": _PUSH,
    "hub_model_id": _PUSH,
    "hub_private_repo": _PUSH,
    "hub_strategy": _PUSH,
    "hub_always_push": _PUSH,
    "hub_revision": _PUSH,
    "hub_token": "remove it: secrets come from the environment (HF_TOKEN) only",
    "do_train": _MACHINE,
    "do_eval": _EVAL,
    "do_predict": _EVAL,
    "eval_strategy": _EVAL,
    "eval_steps": _EVAL,
    "eval_on_start": _EVAL,
    "load_best_model_at_end": _EVAL,
    "metric_for_best_model": _EVAL,
    "greater_is_better": _EVAL,
    "fsdp": "set sharding",
    "fsdp_config": "set sharding",
    "deepspeed": "set sharding",
    "auto_find_batch_size": "set {phase}.per_device_train_batch_size",
}
"""TRL's name -> what to set instead, for everything CARL decides itself."""

DEPRECATED = {
    "gradient_checkpointing_kwargs": "use activation_checkpointing_kwargs",
    "pad_token": "set model.tokenizer",
    "use_liger_kernel": "remove it: TRL 1.16 has a fused loss of its own",
    "liger_kernel_config": "remove it: TRL 1.16 has a fused loss of its own",
    "use_transformers_paged": "use use_transformers_continuous_batching",
    "vllm_importance_sampling_cap": "use vllm_importance_sampling_clip_max",
}
"""Fields that the pinned TRL or transformers is about to remove."""


def check_trainer(phase: str, settings: PhaseSettings) -> Iterator[Problem]:
    """Yield what is wrong with the `trainer` block of one phase.

    Args:
        phase: Its name in the spec and in the table, such as `grpo`.
        settings: The phase.
    """
    if not settings.trainer:
        return
    fields = table("trl_fields.json")[phase]
    for name, value in settings.trainer.items():
        where = f"{phase}.trainer.{name}"
        if name in type(settings).model_fields and name not in ("data", "trainer"):
            yield Problem(
                where, "CARL has its own name for this", f"set {phase}.{name}"
            )
        elif name in CONTROLLED and (name in fields or name == "fp16"):
            remedy = CONTROLLED[name].format(phase=phase)
            yield Problem(where, "CARL controls this field", remedy)
        elif name in DEPRECATED and name in fields:
            yield Problem(where, "the pinned TRL deprecates this", DEPRECATED[name])
        elif name not in fields:
            yield Problem(
                where,
                f"the pinned TRL has no such field in {phase.upper()}Config",
                nearest(name, fields),
            )
        else:
            yield from _check_value(where, value, fields[name])


def _check_value(where: str, value: Any, field: dict[str, Any]) -> Iterator[Problem]:
    types = field["types"]
    if _type_name(value) not in types and not (type(value) is int and "float" in types):
        yield Problem(
            where,
            f"expected {' or '.join(types)}, got {_type_name(value)}",
            "correct the value",
        )
        return
    choices = field.get("choices")
    if choices and isinstance(value, str) and value not in choices:
        yield Problem(where, "is none of TRL's choices", nearest(value, choices))
    try:
        check_plain(value, 0)
    except ValueError as error:
        yield Problem(where, str(error), "correct the value")


def _type_name(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def check_plain(value: Any, depth: int) -> None:
    """Raise ValueError unless a value is plain, finite, valid text, not too deep."""
    if depth > MAX_DEPTH:
        raise ValueError(f"is nested more than {MAX_DEPTH} levels deep")
    if type(value) is str:
        check_text(value)
    elif type(value) is float:
        if not math.isfinite(value):
            raise ValueError("is not a finite number")
    elif type(value) is list:
        for item in value:
            check_plain(item, depth + 1)
    elif type(value) is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise ValueError(f"has the key {key!r}, which is not a string")
            check_text(key)
            check_plain(item, depth + 1)
    elif value is not None and type(value) not in (bool, int):
        raise ValueError(f"holds a {type(value).__name__}, which no spec can hold")
