"""The model to train and its tokenizer."""

from __future__ import annotations

from typing import Any

import torch

from carl_runtime_min.errors import ConfigurationError, UsageError
from carl_runtime_min.lora import lora_targets


def load_tokenizer(source: dict[str, Any]) -> Any:
    """The tokenizer of the spec's model, with a padding token."""
    from transformers import AutoTokenizer

    name, revision = source["tokenizer"] or source["id"], source["revision"]
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            name, revision=revision, trust_remote_code=source["trust_remote_code"]
        )
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"cannot load the tokenizer of {name}: {error}",
            remedy="log in to the hub, or give the path of a downloaded copy",
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(source: dict[str, Any], adapter: bool) -> Any:
    """The spec's model: float32, or bfloat16 under an adapter on CUDA, if `auto`."""
    from transformers import AutoModelForCausalLM

    dtype = source["dtype"]
    if dtype == "auto":
        dtype = "bfloat16" if adapter and torch.cuda.is_available() else "float32"
    try:
        return AutoModelForCausalLM.from_pretrained(
            source["id"],
            revision=source["revision"],
            dtype=getattr(torch, dtype),
            attn_implementation=source["attention"],
            trust_remote_code=source["trust_remote_code"],
        )
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"cannot load the model {source['id']}: {error}",
            remedy="log in to the hub, or give the path of a downloaded copy",
        ) from error


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
        target_modules=lora_targets(model) if targets == "auto" else list(targets),
    )
    return get_peft_model(model, config)


def load_adapter(model: Any, folder: str) -> Any:
    """`model` with the trained adapters in `folder`, to train them further."""
    from peft import PeftModel

    return PeftModel.from_pretrained(model, folder, is_trainable=True)


def require_chat_template(tokenizer: Any, name: str) -> None:
    """Stop if rows are conversations and the tokenizer cannot render them."""
    if tokenizer.chat_template is None:
        raise UsageError(
            f"the tokenizer of {name} has no chat template, the data are conversations",
            remedy="choose an instruction-tuned model, or rows of plain text",
        )
