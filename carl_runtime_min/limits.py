"""What the class of a model cannot do: it is left out with a note, or refused."""

from __future__ import annotations

import os
from typing import Any

import torch

from carl_runtime_min.errors import UsageError
from carl_runtime_min.lora import stacked_experts
from carl_runtime_min.run import Run

BALANCE = "router_aux_loss_coef"


def spared(
    model: Any, run: Run, arguments: dict[str, Any], text: bool = True
) -> dict[str, Any]:
    """The trainer's arguments without what the model's class does not have.

    With `text` the model is tried on some. UsageError if it does not learn from that.
    """
    bare = getattr(model, "get_base_model", lambda: model)()
    changed: dict[str, Any] = {}
    config, name = bare.config.get_text_config(), type(bare).__name__
    if arguments["gradient_checkpointing"] and not bare.supports_gradient_checkpointing:
        changed["gradient_checkpointing"] = False
        run.say(f"{name} has no activation checkpointing: it needs more memory")
    balance = arguments.get(BALANCE, getattr(config, BALANCE, 0))
    experts = any(map(stacked_experts, bare.modules()))
    known = experts and hasattr(config, "num_experts")  # TRL needs both
    if balance and not known and run.phase != "orpo":
        changed[BALANCE] = 0.0
        run.say(f"{name}: TRL cannot compute the loss that balances experts; left out")
    words = bare.get_input_embeddings()
    if bare.base_model is bare:  # TRL would take the whole for the decoder
        parts = dict(bare.named_children()).items()
        own = [n for n, x in parts if getattr(x, "embed_tokens", None) is words]
        bare.base_model_prefix = own[0] if own else bare.base_model_prefix
    arguments = {**arguments, **changed}
    if text:
        check_text(model, bare, arguments)
    return arguments


def check_text(model: Any, bare: Any, arguments: dict[str, Any]) -> None:
    """Try two tokens as TRL takes them: decoder, output head and, if need be, sampling.

    UsageError with what the class says if it fails: it needs an image, a language, ...
    """
    if torch.cuda.is_available() and bare.device.type == "cpu":
        model.to(f"cuda:{os.environ.get('LOCAL_RANK', 0)}")  # as the trainer will
    ids = torch.ones(1, 2, dtype=torch.long, device=bare.device)
    row, training = {"input_ids": ids, "attention_mask": ids}, model.training
    if arguments["gradient_checkpointing"]:
        bare.enable_input_require_grads()  # as adapters need it
    model.train()
    try:
        with torch.random.fork_rng():
            states = bare.base_model(**row, use_cache=False)
            bare.get_output_embeddings()(states.last_hidden_state)
            bare.prepare_inputs_for_generation(ids)
            if "num_generations" in arguments:
                bare.generate(**row, max_new_tokens=2)
    except Exception as error:  # any class may fail in any way
        said, name = " ".join(str(error).split()), type(bare).__name__
        reason = f"{name} cannot be trained on text alone: {said}"
        hooked = "requires grad" in said  # the hook above changed what it writes to
        remedy = (
            "set gradient_checkpointing: false" if hooked else "choose another model"
        )
        raise UsageError(reason, remedy=remedy) from error
    model.train(training)
    if arguments["gradient_checkpointing"]:
        bare.disable_input_require_grads()


def check_ranks() -> None:
    """UsageError unless there are several processes to spread a model over."""
    if int(os.environ.get("WORLD_SIZE", 1)) < 2:
        remedy = "run it where there are several, or set sharding: none"
        raise UsageError("sharding needs two GPUs or more", remedy=remedy)
