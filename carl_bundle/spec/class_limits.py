"""What the class of a model cannot do: it is left out with a remark, or refused.

The table was measured with the pinned transformers (`tools/tables/class_limits.py`). Of
a class that it does not name nothing is claimed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from carl_bundle.errors import Problem
from carl_bundle.spec.blocks import ModelSettings
from carl_bundle.spec.tables import table
from carl_bundle.spec.train_spec import TrainSpec

COEFFICIENT = "router_aux_loss_coef"
"""TRL's argument that weighs the loss by which experts are balanced."""

OTHER = "choose another model"
"""The way out where a class cannot learn from text."""


def limits_of(model: ModelSettings) -> dict[str, Any]:
    """The table's entry of the class that a script loads; code of its own has none."""
    frozen = model.frozen
    if frozen is None or frozen.auto_class is None or model.trust_remote_code:
        return {}
    return class_entry(frozen.architecture)


def class_entry(architecture: str | None) -> dict[str, Any]:
    """The table's entry of a class; its keys are told where the table is made."""
    classes: dict[str, dict[str, Any]] = table("class_limits.json")["classes"]
    return classes.get(architecture or "", {})


def checkpointing_fault(spec: TrainSpec) -> str | None:
    """Why the model cannot compute activations anew instead of keeping them."""
    if spec.sharding == "fsdp2":  # which does it without the class
        return None
    found = limits_of(spec.model)
    told: str | None = found.get("checkpointing")
    return told or (found.get("adapters") if spec.lora is not False else None)


def unbalanced(spec: TrainSpec, phase: str) -> bool:
    """Whether TRL would fail in the loss that balances experts, were it not left out.

    The class does not say how many there are, or the model has none.
    """
    frozen, computed = spec.model.frozen, limits_of(spec.model).get("balance")
    none = computed and frozen is not None and frozen.experts == 0
    return phase != "orpo" and (computed is False or bool(none))


def text_fault(spec: TrainSpec) -> str | None:
    """Why the model does not learn from rows of text; None if it may."""
    found, frozen = limits_of(spec.model), spec.model.frozen
    said = found.get("text") or (found.get("sampling") if spec.sampled else None)
    if said is None or frozen is None or spec.vision:
        return None
    return f"{frozen.architecture} cannot be trained on text alone: {said}"


def remarks(spec: TrainSpec) -> Iterator[str]:
    """What the script of a frozen spec leaves out for the class of its model."""
    frozen, fault = spec.model.frozen, checkpointing_fault(spec)
    for name, phase in spec.phases.items():
        if frozen and fault and phase.gradient_checkpointing is None:
            yield (
                f"{name}.gradient_checkpointing is false, which takes more memory: "
                f"with it {frozen.architecture} fails ({fault})"
            )
        if frozen and unbalanced(spec, name) and COEFFICIENT not in phase.trainer:
            yield (
                f"{name}: the loss that balances experts is left out, as TRL cannot "
                f"compute it for {frozen.architecture}"
            )


def class_rules(spec: TrainSpec) -> Iterator[Problem]:
    """Yield what is asked of the class of a model that it cannot do."""
    fault, text = checkpointing_fault(spec), text_fault(spec)
    if text and "lacks" not in limits_of(spec.model):  # else the files decide
        yield Problem("model.id", text, OTHER)
    for name, phase in spec.phases.items():
        if fault and phase.gradient_checkpointing:
            yield Problem(
                f"{name}.gradient_checkpointing",
                f"with it the model fails: {fault}",
                "set it to false (which takes more memory), or remove it",
            )
        if unbalanced(spec, name) and phase.trainer.get(COEFFICIENT):
            yield Problem(
                f"{name}.trainer.{COEFFICIENT}",
                "TRL cannot compute the loss that balances experts for this model",
                "remove it: that loss is left out",
            )


def lacking(spec: TrainSpec, config: dict[str, Any]) -> Problem | None:
    """The same of a model whose config.json may give what the class has no default for.

    Its values are at hand when a spec is frozen, and not afterwards.
    """
    fault, field = text_fault(spec), limits_of(spec.model).get("lacks")
    blocks = [config, *(x for x in config.values() if isinstance(x, dict))]
    given = any(block.get(field) is not None for block in blocks)
    if given or not (fault and field):
        return None
    return Problem("model.id", fault, f"{OTHER}, or give {field} in config.json")
