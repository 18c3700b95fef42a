"""What each class of transformers cannot do, by trying a small model of it.

The models are those of `make matrix`. A class that can do all has no entry.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

LACKING = re.compile(
    r"Config' object has no attribute '(\w+)'|`(\w+)` argument in the config"
    r"|set_(\w+)\(\)"
)
"""A field that the class has no default for, and that a `config.json` may give."""

SIZES = re.compile(r"\b(shape|size)\b")
"""Such a message speaks of this small model, not of its class."""

NO_CHECKPOINTING = "its class has no activation checkpointing"


def class_limits() -> dict[str, Any]:
    """Return `{"classes": {architecture: entry}, "versions": ...}`.

    An entry may have `text` and `sampling` (why it cannot learn from text alone, or
    answer it), `lacks` (a field of config.json with which they may not hold),
    `checkpointing` and `adapters` (why not with activation checkpointing, and why not
    with that and adapters), `balance` (whether TRL computes the loss that balances its
    experts) and `decoder` (its name, where TRL would take the whole model for it).
    """
    import transformers

    from tools.matrix.instance import build, cases

    found: dict[str, list[dict[str, Any]]] = {}
    for case in cases():
        try:
            model = build(case)
        except Exception:  # any class may refuse in any way
            continue
        found.setdefault(case.architecture, []).append(entry(model))
    agreed = {
        name: {k: v for k, v in first.items() if all(e.get(k) == v for e in rest)}
        for name, (first, *rest) in found.items()
    }
    return {
        "versions": {"transformers": transformers.__version__},
        "classes": {name: limits for name, limits in agreed.items() if limits},
    }


def entry(model: Any) -> dict[str, Any]:
    """What a model cannot do, of what TRL asks of it."""
    model.requires_grad_(False).train()  # as below adapters
    found: dict[str, Any] = {**balance(model), **decoder(model)}
    if not model.supports_gradient_checkpointing:
        found["checkpointing"] = NO_CHECKPOINTING
    said = fault(lambda: reads(model))
    if said:
        return {**found, **claim("text", said)}
    found |= claim("sampling", fault(lambda: samples(model)))
    model.enable_input_require_grads()
    return {**found, **claim("adapters", fault(lambda: reads(model)))}


def claim(kind: str, said: str | None) -> dict[str, str]:
    """What a message says of the class, if it does not speak of the small model."""
    if said is None or SIZES.search(said):
        return {}
    lacks = LACKING.search(said)
    return {kind: said, **({"lacks": lacks[lacks.lastindex or 0]} if lacks else {})}


def reads(model: Any) -> None:
    """Two tokens as TRL takes them: decoder, output head; and what sampling needs."""
    row = tokens()
    states = model.base_model(**row, use_cache=False)
    model.get_output_embeddings()(states.last_hidden_state)
    model.prepare_inputs_for_generation(row["input_ids"])


def samples(model: Any) -> None:
    model.generate(**tokens(), max_new_tokens=2)


def tokens() -> dict[str, Any]:
    import torch

    ids = torch.ones(1, 2, dtype=torch.long)
    return {"input_ids": ids, "attention_mask": ids}


def fault(trial: Callable[[], None]) -> str | None:
    """What a trial says when it fails, in one line."""
    try:
        trial()
    except Exception as error:  # any class may fail in any way
        return " ".join(str(error).split())
    return None


def balance(model: Any) -> dict[str, bool]:
    """Whether TRL has what it counts experts by, if the class has such a loss."""
    from carl_runtime_min.lora import stacked_experts

    config = model.config.get_text_config()
    if not hasattr(config, "router_aux_loss_coef"):
        return {}
    experts = any(map(stacked_experts, model.modules()))
    return {"balance": experts and hasattr(config, "num_experts")}


def decoder(model: Any) -> dict[str, str]:
    """The child that embeds the tokens, which from here on is the model's decoder."""
    if model.base_model is not model:
        return {}
    words, children = model.get_input_embeddings(), dict(model.named_children())
    own = [n for n, x in children.items() if getattr(x, "embed_tokens", None) is words]
    if not own:
        return {}
    model.base_model_prefix = own[0]
    return {"decoder": own[0]}
