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
    """Return the full names of the linear layers in the text decoder, sorted.

    Left out are the output head, vision and audio towers with their projectors,
    routers and gates of experts, and what an adapter would not reach.

    Raises:
        UsageError: The model has no such layer.
    """
    decoder = model.get_decoder()
    layers = {id(m) for m in layer_modules(decoder, False)}
    layers.discard(id(model.get_output_embeddings()))
    experts = any(stacked_experts(module) for module in decoder.modules())
    names = []
    for name, module in model.named_modules():
        parent_name, _, own_name = name.rpartition(".")
        width = getattr(module, "out_features", getattr(module, "nf", None))
        if id(module) not in layers or width is None:
            continue
        parent = model.get_submodule(parent_name)
        mamba = hasattr(parent, "A_log") and hasattr(parent, "D")
        routed = {n for m in parent.children() for n in stacked_experts(m)}
        gate = width == 1 or width in routed
        unreached = mamba and own_name in FUSED_PROJECTIONS
        redirected = experts and own_name in EXPERT_PROJECTIONS
        if not (gate or unreached or redirected):
            names.append(name)
    if not names:
        raise UsageError(
            f"{type(model).__name__} has no linear layer that LoRA can adapt",
            remedy="name lora.targets yourself, or train all weights (lora: false)",
        )
    return sorted(names)


def layer_modules(module: Any, inside: bool) -> Iterator[nn.Module]:
    """Yield what lies in a decoder's lists of layers; towers have another config."""
    if inside:
        yield module
    kind = getattr(getattr(module, "config", None), "model_type", None)
    for child in module.children():
        tower = (
            hasattr(child, "get_input_embeddings") and child.config.model_type != kind
        )
        if not tower:
            yield from layer_modules(child, inside or isinstance(module, nn.ModuleList))


def stacked_experts(module: nn.Module) -> set[int]:
    """Return how many experts a module stacks in its tensors of three dimensions."""
    if isinstance(module, nn.Conv1d):
        return set()
    return {p.shape[0] for p in module.parameters(recurse=False) if p.dim() == 3}
