"""Rules for models that are spread over several GPUs."""

from __future__ import annotations

from collections.abc import Iterator

from carl_bundle.errors import Problem
from carl_bundle.spec.train_spec import TrainSpec


def sharding_rules(spec: TrainSpec) -> Iterator[Problem]:
    """Yield what cannot go together with the way in which the model is sharded."""
    kind, model = spec.sharding, spec.model
    if kind == "none":
        return
    if model.is_builtin:
        yield Problem(
            "sharding",
            "the built-in model is too small to spread over GPUs",
            "remove it, or name another model",
        )
    if kind != "fsdp2" and spec.non_finite == "skip":
        yield Problem(
            "sharding, non_finite",
            "DeepSpeed updates the weights before a step can be left out",
            "set non_finite: stop, or sharding: fsdp2",
        )
    whole = kind != "zero2"  # which spreads the optimizer and the gradients alone
    quantized = model.quantize or (model.frozen and model.frozen.quantization)
    if whole and quantized:
        reason = (
            "accelerate leaves weights in few bits whole on every GPU"
            if kind == "fsdp2"
            else "ZeRO-3 cannot split weights in few bits that lie on a GPU already"
        )
        yield Problem(
            "sharding, model.quantize" if model.quantize else "sharding, model",
            f"{reason} ({quantized})",
            "set sharding to zero2 or none, or train adapters on unquantised weights",
        )
    if whole and spec.method == "pipeline":
        yield Problem(
            "sharding, method",
            "the evaluation of a pipeline holds the whole model on one GPU",
            "train the phases as runs of their own (method: sft, then grpo)",
        )
