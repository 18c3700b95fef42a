"""What the formats share: settings that all of them hand on to transformers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, get_args

from carl_bundle.errors import UsageError
from carl_bundle.spec.imports.draft import Draft
from carl_bundle.spec.phases import KINDS
from carl_bundle.spec.reward_rules import NO_REWARD
from carl_bundle.spec.train_spec import Reporter

BITS = "model.quantize is 4bit (NF4, quantised twice) or 8bit, by bitsandbytes"
NO_TEMPLATE = "the chat template of the tokenizer is used; set model.chat_template"
MACHINE = "a spec says what is trained, not where"
SECRET = "secrets come from the environment (HF_TOKEN) only"
CODE = (
    "it would run code from the hub: read that code, then set "
    "model.trust_remote_code and a 40-digit model.revision"
)

RENAMED = {
    "output_dir": "output_dir",
    "seed": "seed",
    "run_name": "name",
    "push_to_hub": "push.enabled",
    "hub_model_id": "push.repo",
    "hub_private_repo": "push.private",
    "gradient_checkpointing_kwargs": "{phase}.trainer.activation_checkpointing_kwargs",
}

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "do_train": (True,),
    "do_eval": (False,),
    "eval_strategy": ("no", False),
    "evaluation_strategy": ("no", False),
    "fp16": (False,),
    "hub_strategy": ("end",),
    "load_best_model_at_end": (False,),
    "bnb_4bit_quant_type": ("nf4",),
    "load_in_4bit": (False,),
    "load_in_8bit": (False,),
    "logging_strategy": ("steps",),
    "overwrite_output_dir": (True, False),
    "save_only_model": (False,),
    "save_safetensors": (True,),
    "save_strategy": ("steps",),
    "trust_remote_code": (False,),
    "use_liger_kernel": (False,),
}
"""Values that ask for what CARL does anyway."""

REASONS = {
    "trust_remote_code": CODE,
    "hub_strategy": "the result is pushed once, at the end",
    "hub_token": SECRET,
    "bnb_4bit_quant_type": BITS,
    "bnb_4bit_quant_storage": BITS,
    "use_bnb_nested_quant": BITS,
}
"""Why a setting of any format is not taken over."""

_LOADERS = ("json", "parquet", "csv", "text", "arrow", None)
"""Names for the format of files, which stand where a data set would be named."""


def rename(draft: Draft, names: Mapping[str, str]) -> None:
    """Set the field of each setting that is given."""
    for key, field in names.items():
        draft.move(key, field)


def check_method(method: str | None) -> str | None:
    """Return the method that the user chose, if any.

    Raises:
        UsageError: It is none that a single phase trains.
    """
    if method is not None and method not in KINDS:
        raise UsageError(
            f"there is no method {method!r} to import to",
            remedy=f"choose one of {', '.join(KINDS)}",
        )
    return method


def no_method(key: str, value: Any) -> UsageError:
    """The error for a kind of training that CARL has not."""
    return UsageError(
        f"CARL has no counterpart of {key}: {str(value)[:60]}",
        remedy="add --method NAME to import everything else for another method: "
        + ", ".join(KINDS),
    )


def bits(draft: Draft) -> None:
    """Weights that are loaded in fewer bits."""
    for key, width in (("load_in_4bit", "4bit"), ("load_in_8bit", "8bit")):
        if draft.settings.get(key) is True:
            draft.put(key, "model.quantize", width)
    if draft.settings.get("quantization_bit") in (4, 8):
        width = f"{draft.settings['quantization_bit']}bit"
        draft.put("quantization_bit", "model.quantize", width)


def horizon(draft: Draft, epochs: str = "num_train_epochs") -> None:
    """Steps end a run where they are given; a number below 1 means epochs."""
    steps = draft.settings.get("max_steps")
    if isinstance(steps, int) and steps < 1:
        draft.take("max_steps")
    elif steps is not None:
        draft.drop(epochs, "max_steps is given, which wins there too")
    draft.move("max_steps", "{phase}.max_steps")
    draft.move(epochs, "{phase}.num_train_epochs")


def warmup(draft: Draft) -> None:
    """A number of steps wins over a share, unless it is 0."""
    if draft.settings.get("warmup_steps"):
        draft.drop("warmup_ratio", "warmup_steps is given, which wins there too")
    elif "warmup_ratio" in draft.settings:
        draft.take("warmup_steps")
    draft.move("warmup_steps", "{phase}.warmup_steps")
    draft.move("warmup_ratio", "{phase}.warmup_steps")


def reporting(draft: Draft) -> None:
    """Trackers that CARL has; the others are listed."""
    given = draft.take("report_to")
    if given is None:
        return
    names = given if isinstance(given, list) else [given]
    known = [name for name in names if name in get_args(Reporter)]
    if len(known) < len(names):
        others = ", ".join(str(name)[:60] for name in names if name not in known)
        draft.dropped["report_to"] = f"there is no tracker {others}"
    if known:
        draft.put("report_to", "report_to", known)


def adapters(draft: Draft, *, wanted: bool, names: Mapping[str, str], why: str) -> None:
    """Set the block `lora` from settings, or train all weights.

    Args:
        draft: The spec in the making.
        wanted: Whether there are adapters.
        names: Setting -> field of the block.
        why: Why the settings say nothing if there are none.
    """
    if not wanted:
        draft.imply("lora", False)
        for key in names:
            draft.drop(key, why)
        return
    draft.imply("lora", {})
    for key, field in names.items():
        draft.move(key, f"lora.{field}", targets if field == "targets" else _same)


def targets(value: Any) -> Any:
    """Names of layers as a list; every linear layer is `auto`."""
    if isinstance(value, bool):
        return "auto" if value else None
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return value
    names = [name.strip() for name in names]
    if {"all", "all-linear", "all_linear"} & set(names):
        return "auto"
    # A string may be a regular expression, which a list of names is not.
    plain = all(re.fullmatch(r"[\w.-]+", name) for name in names)
    return names if plain or isinstance(value, list) else value


def rewards(draft: Draft, functions: str, weights: str) -> None:
    """Set the task rewards from functions that are named by their import path."""
    names, given = draft.settings.get(functions), draft.settings.get(weights)
    names = names if isinstance(names, list) else [] if names is None else [names]
    if given is not None and not _are_weights(given, len(names)):
        draft.drop(weights, f"it is no list with one weight for each of {functions}")
        given = None
    found = [_reward(name) for name in names]
    for index, reward in enumerate(found):
        if reward is not None and given is not None:
            reward["weight"] = given[index]
    unknown = [str(n)[:60] for n, r in zip(names, found, strict=True) if r is None]
    if unknown:
        draft.drop(functions, f"CARL has no {', '.join(unknown)}")
    draft.take(weights)
    if len(unknown) < len(found):
        draft.put(functions, "rewards", [r for r in found if r is not None])
        if unknown:
            # Without any reward, the spec itself is refused.
            draft.refuse("rewards", f"lack {', '.join(unknown)}", NO_REWARD)


def _are_weights(value: Any, count: int) -> bool:
    if not isinstance(value, list) or len(value) != count:
        return False
    return all(type(one) in (int, float) and one >= 0 for one in value)


def _reward(name: Any) -> dict[str, Any] | None:
    if name == "think_format_reward":
        # What TRL's function looks for, from the very start of the text.
        pattern = r"\A<think>(?!.*<think>).*?</think>"
        return {"name": "pattern", "pattern": pattern}
    if isinstance(name, str) and re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", name):
        module, _, function = name.rpartition(".")
        return {"function": f"{module.replace('.', '/')}.py:{function}"}
    return None


def _same(value: Any) -> Any:
    return value


def single_answers(draft: Draft) -> None:
    """Say that answers have another shape beside a list of messages."""
    draft.refuse(
        "data.columns",
        "an answer is one message there, and text or a list of messages here",
        "write answers as text or as [{role, content}] into a file and set data.id",
    )


def train_on_prompts(draft: Draft, key: str) -> None:
    """Count the tokens of prompts in the loss, if a setting says so."""
    if draft.settings.get(key) is True:
        draft.put(key, "sft.trainer.completion_only_loss", False)


def assistant_turns(draft: Draft, tool: str) -> None:
    """Say which turns of a conversation are trained on."""
    draft.remarks.append(
        f"{tool} trains on the turns of the assistant, CARL on the whole of "
        "`messages`; sft.trainer.assistant_only_loss: true is the same, if the "
        "template marks those turns"
    )


def first_data_set(draft: Draft, entries: Any) -> str:
    """Spread the first of a list of data sets over settings of their own.

    Sets `data.id`. More data sets than one are a problem, because the spec would
    train on less than the source.

    Returns:
        What precedes the names of its settings, such as `datasets.0.`.
    """
    prefix = "datasets.0."
    entries = entries if isinstance(entries, list) else [entries]
    first = entries[0] if entries else {}
    first = first if isinstance(first, dict) else {"path": first}
    for key, value in first.items():
        if value is not None:
            draft.settings[f"{prefix}{key}"] = value
    if len(entries) > 1:
        draft.refuse(
            "datasets",
            f"the file trains on {len(entries)} data sets, of which one is read here",
            "write data as a list of sources, each with a weight",
        )
    files = draft.settings.get(f"{prefix}data_files")
    files = files[0] if isinstance(files, list) and len(files) == 1 else files
    if draft.settings.get(f"{prefix}path") in _LOADERS:
        draft.drop(f"{prefix}path", "it names the format of files, not the rows")
        if isinstance(files, str):
            draft.dropped.pop(f"{prefix}path", None)
            draft.put(f"{prefix}data_files", "data.id", files)
    draft.move(f"{prefix}path", "data.id")
    return prefix


def vllm(draft: Draft, prefix: str = "") -> None:
    """Whether samples come from vLLM, whose settings say nothing without it."""
    name, mode = f"{prefix}use_vllm", f"{prefix}vllm_mode"
    if draft.settings.get(name) is True:
        draft.put(name, "{phase}.vllm", draft.take(mode) or "colocate")
        return
    for key in list(draft.settings):
        if key.startswith(f"{prefix}vllm_"):
            draft.drop(key, "use_vllm is not true, so nothing reads it")
