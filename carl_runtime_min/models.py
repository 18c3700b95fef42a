"""The model to train and its tokenizer."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from carl_runtime_min.errors import UsageError


def load_tokenizer(source: dict[str, Any]) -> Any:
    """The tokenizer of the spec's model, with a padding token."""
    from transformers import AutoTokenizer

    name, options = source["tokenizer"], source["tokenizer_options"]
    tokenizer = AutoTokenizer.from_pretrained(name, **options)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def templated_tokenizer(source: dict[str, Any]) -> Any:
    """The tokenizer with the spec's chat template, or with thinking on or off."""
    return with_template(load_tokenizer(source), source["template"])


def with_template(tokenizer: Any, settings: dict[str, Any]) -> Any:
    """The tokenizer (or processor) with another chat template, or a switch set in it.

    Whoever renders the template may still set the variable that is the switch.
    """
    text = settings["text"] or tokenizer.chat_template
    text = text["default"] if isinstance(text, dict) else text
    if settings["switch"]:
        name, value = settings["switch"], str(settings["thinking"]).lower()
        default = f"{{% set {name} = {value} %}}"
        text = f"{{% if {name} is not defined %}}{default}{{% endif %}}{text}"
    tokenizer.chat_template = text
    return tokenizer


def load_model(source: dict[str, Any]) -> Any:
    """The model at its pinned revision; `auto` is bfloat16 for adapters on CUDA."""
    import transformers

    options, half = source["options"], source["adapter"] and torch.cuda.is_available()
    if options["dtype"] == "auto":
        options = {**options, "dtype": "bfloat16" if half else "float32"}
    kind = getattr(transformers, source["class"])  # another would lose weights
    options = {**options, "output_loading_info": True}
    model, found = kind.from_pretrained(source["id"], **options)
    if found["missing_keys"]:
        reason = f"{source['id']} has no weights for {min(found['missing_keys'])}"
        raise UsageError(reason, remedy="choose a whole checkpoint of a language model")
    if not hasattr(model, "prepare_inputs_for_generation"):
        reason = f"{source['class']} does not generate token by token"
        raise UsageError(reason, remedy="choose a causal language model")
    return model


def load_quantized(source: dict[str, Any]) -> Any:
    """The model in fewer bits, on the GPU of this rank: it cannot be moved there."""
    rank, cuda = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.is_available()
    options = {**source["options"], "device_map": {"": rank} if cuda else None}
    return load_model({**source, "options": options})


def add_adapter(model: Any, targets: list[str], settings: dict[str, Any]) -> Any:
    """`model` with fresh low-rank adapters on the layers `targets`."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(task_type="CAUSAL_LM", target_modules=targets, **settings)
    return get_peft_model(model, config)


def load_adapter(model: Any, folder: Path) -> Any:
    """`model` with the trained adapters in `folder`, to train them further."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(folder), is_trainable=True)
