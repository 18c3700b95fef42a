"""Which layers of a model get a low-rank adapter, decided by its structure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from carl_runtime_min.errors import UsageError

# Mamba kernels read these weights without calling the modules that hold them.
FUSED_PROJECTIONS = ("x_proj", "dt_proj", "out_proj")
# In a model with stacked experts PEFT takes these names for the experts' old ones,
# and adapts every expert instead of the layer that was named.
EXPERT_PROJECTIONS = ("gate_proj", "up_proj", "down_proj", "w1", "w2", "w3", "gate")


def lora_targets(model: Any) -> list[str]:
    """The full names of the linear layers in the text decoder, sorted.

    Left out are the output head, vision and audio towers with their projectors,
    routers and gates of experts, and what an adapter would not reach.
    """
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    decoder = model.base_model if decoder is head else decoder  # its name may mislead
    layers = set(layer_modules(decoder)) - {head}
    experts = any(map(stacked_experts, decoder.modules()))
    names = []
    for name, module in model.named_modules():
        width = getattr(module, "out_features", getattr(module, "nf", None))
        if module not in layers or width is None:
            continue
        parent_name, _, own_name = name.rpartition(".")
        parent = model.get_submodule(parent_name)
        routed = set().union(*map(stacked_experts, parent.children()))
        mamba = hasattr(parent, "A_log") and hasattr(parent, "D")
        unreached = mamba and own_name in FUSED_PROJECTIONS
        redirected = experts and own_name in EXPERT_PROJECTIONS
        if not (width == 1 or width in routed or unreached or redirected):
            names.append(name)
    if not names:
        remedy = "name lora.targets yourself, or train all weights (lora: false)"
        raise UsageError("LoRA finds no linear layer to adapt", remedy=remedy)
    return sorted(names)


def layer_modules(module: Any, inside: bool = False) -> Iterator[nn.Module]:
    """What lies in a decoder's lists of layers; towers have another config."""
    kind = getattr(getattr(module, "config", None), "model_type", None)
    inside = inside or isinstance(module, nn.ModuleList)
    for child in module.children():
        tower = hasattr(child, "get_input_embeddings")
        if not tower or child.config.model_type == kind:
            yield from (child,) if inside else ()
            yield from layer_modules(child, inside)


def stacked_experts(module: nn.Module) -> set[int]:
    """How many experts a module stacks in its tensors of three dimensions."""
    tensors = () if isinstance(module, nn.Conv1d) else module.parameters(recurse=False)
    sizes = [getattr(x, "ds_shape", x.shape) for x in tensors]  # ds_: cut by ZeRO-3
    return {size[0] for size in sizes if len(size) == 3}
