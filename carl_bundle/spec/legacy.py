"""The names of CARL Studio's `carl.yaml`, translated to those of this release.

Only names are taken over, never the old defaults.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from carl_bundle.errors import Problem
from carl_bundle.spec.document import Document, get, put
from carl_bundle.spec.phases import RUNS

_RENAMED = {
    "run_name": "name",
    "base_model": "model.id",
    "tokenizer_source": "model.tokenizer",
    "dataset_repo": "data.id",
    "dataset_split": "data.split",
    "eval_dataset_repo": "eval.data.id",
    "eval_split": "eval.data.split",
    "output_repo": "push.repo",
    "push_to_hub": "push.enabled",
    "hub_private": "push.private",
    "num_generations": "grpo.num_generations",
    "max_completion_length": "grpo.max_completion_length",
    "beta": "grpo.beta",
    "grpo_temperature": "grpo.temperature",
    "grpo_top_k": "grpo.top_k",
}

_OWN_BETA = {name: {"beta": f"{name}.beta"} for name in ("dpo", "kto", "orpo")}
"""Where the old `beta` goes for methods that have one of their own."""

_PHASE = {
    "max_steps": "max_steps",
    "num_train_epochs": "num_train_epochs",
    "per_device_train_batch_size": "per_device_train_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "learning_rate": "learning_rate",
    "warmup_ratio": "warmup_steps",
    "warmup_steps": "warmup_steps",
    "weight_decay": "weight_decay",
    "max_grad_norm": "max_grad_norm",
    "max_length": "max_length",
    "lr_scheduler_type": "lr_scheduler_type",
    "bf16": "bf16",
    "trainer": "trainer",
    "extra_args": "trainer",
}
"""Old name -> field of the phases that the method runs."""

_LORA = {"lora_alpha": "alpha", "lora_dropout": "dropout", "target_modules": "targets"}

_IGNORED = {
    "compute_target": "a spec says what is trained, not where",
    "timeout": "a spec says what is trained, not where",
    "observation": "every step is measured",
    "hub_strategy": "the result is pushed once, at the end",
    "disable_thinking": "the chat template of the model is used as it is",
}

_REFUSED: dict[str, tuple[Callable[[Any], bool], str, str]] = {
    "vlm_mode": (
        bool,
        "training on images is not part of this release",
        "remove it to train on text",
    ),
    "quantization": (
        lambda value: (
            not isinstance(value, dict)
            or bool(value.get("load_in_8bit") or value.get("load_in_4bit"))
        ),
        "loading weights in 8 or 4 bits is not part of this release",
        "remove it, or name a checkpoint that is quantised already",
    ),
}


@dataclass
class Translation:
    """A document in today's names, and what was done to it."""

    document: Document
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def translate(document: Document, method: str | None = None) -> Translation:
    """Return a document with old names replaced by new ones.

    Args:
        document: What the file or one assignment holds.
        method: The method that a flag chose, which decides where the old flat
            names of a phase go; the document's own otherwise.
    """
    result = Translation({})
    method = method or str(document.get("method", "pipeline"))
    phases = RUNS.get(method, ())
    renamed = {**_RENAMED, **_OWN_BETA.get(method, {})}
    old = {name: value for name, value in document.items() if _is_old(name)}
    result.document.update({k: v for k, v in document.items() if k not in old})
    _rename_lora(result)
    _settle_horizon(old, result)
    for name, value in old.items():
        if name in renamed:
            _move(name, value, renamed[name], result)
        elif name in _PHASE:
            for phase in phases:
                _move(name, value, f"{phase}.{_PHASE[name]}", result)
        elif name in _IGNORED:
            result.notes.append(f"{name} is ignored: {_IGNORED[name]}")
        elif name in _REFUSED:
            applies, message, remedy = _REFUSED[name]
            if applies(value):
                result.problems.append(Problem(name, message, remedy))
        else:
            _cascade(value, result)
    return result


def _is_old(name: str) -> bool:
    tables = (_RENAMED, _PHASE, _IGNORED, _REFUSED)
    return name == "cascade_stages" or any(name in table for table in tables)


def _move(old: str, value: Any, new: str, result: Translation) -> None:
    if get(result.document, new) is not None:
        result.problems.append(
            Problem(
                old, f"is the old name of {new}, which is given as well", f"keep {new}"
            )
        )
        return
    try:
        put(result.document, new, value)
    except ValueError as error:
        result.problems.append(Problem(old, str(error), f"write {new}"))
    else:
        result.notes.append(f"{old} is now {new}")


def _rename_lora(result: Translation) -> None:
    lora = result.document.get("lora")
    if not isinstance(lora, dict):
        return
    renamed = {_LORA.get(name, name): value for name, value in lora.items()}
    for name in sorted(lora.keys() & _LORA.keys()):
        if _LORA[name] in lora:
            result.problems.append(
                Problem(
                    f"lora.{name}",
                    f"is the old name of lora.{_LORA[name]}, which is given as well",
                    f"keep lora.{_LORA[name]}",
                )
            )
        else:
            result.notes.append(f"lora.{name} is now lora.{_LORA[name]}")
    result.document["lora"] = renamed


def _settle_horizon(old: Document, result: Translation) -> None:
    """The old file had both numbers; -1 steps meant epochs, else steps won."""
    steps = old.get("max_steps")
    if steps == -1 and type(steps) is int:
        del old["max_steps"]
    elif steps is not None and old.pop("num_train_epochs", None) is not None:
        result.notes.append("num_train_epochs is ignored: max_steps is given")


def _cascade(value: Any, result: Translation) -> None:
    """With stages, CARL entered after the steps of the first one."""
    if value is None:
        return
    stages = value if isinstance(value, list) else []
    steps = stages[0].get("steps") if stages and isinstance(stages[0], dict) else None
    if type(steps) is not int:
        result.problems.append(
            Problem(
                "cascade_stages",
                "is not a list of stages with `steps`",
                "set carl.cascade to fixed and carl.carl_start to a step",
            )
        )
    elif len(stages) < 2:
        result.problems.append(
            Problem(
                "cascade_stages",
                "has one stage, so it names no step at which CARL enters",
                "set carl.cascade to fixed and carl.carl_start, or remove it",
            )
        )
    else:
        put(result.document, "carl.cascade", "fixed")
        _move("cascade_stages", steps, "carl.carl_start", result)
