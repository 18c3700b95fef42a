"""The model to train and its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from carl_runtime_min.lora import lora_targets


def load_tokenizer(source: dict[str, Any]) -> Any:
    """The tokenizer of the spec's model, with a padding token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        source["tokenizer"],
        revision=source["tokenizer_revision"],
        **source["loading"],
    )
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def load_model(source: dict[str, Any]) -> Any:
    """The model at its pinned revision; `auto` is bfloat16 for adapters on CUDA."""
    from transformers import AutoModelForCausalLM

    dtype = source["dtype"]
    if dtype == "auto":
        half = source["adapter"] and torch.cuda.is_available()
        dtype = "bfloat16" if half else "float32"
    return AutoModelForCausalLM.from_pretrained(
        source["id"],
        revision=source["revision"],
        dtype=dtype,
        attn_implementation=source["attention"],
        **source["loading"],
    )


def add_adapter(model: Any, settings: dict[str, Any]) -> Any:
    """`model` with fresh low-rank adapters on its linear layers."""
    from peft import LoraConfig, get_peft_model

    targets = settings["targets"]
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings["r"],
        lora_alpha=settings["alpha"],
        lora_dropout=settings["dropout"],
        bias=settings["bias"],
        target_modules=lora_targets(model) if targets == "auto" else targets,
    )
    return get_peft_model(model, config)


def load_adapter(model: Any, folder: Path) -> Any:
    """`model` with the trained adapters in `folder`, to train them further."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(folder), is_trainable=True)
