"""Recipes: from a frozen spec to the plan of one script."""

from __future__ import annotations

from carl_bundle.recipes.config import configuration
from carl_bundle.recipes.plan import Plan, UserFunction
from carl_bundle.recipes.structure import structure
from carl_bundle.spec.train_spec import TrainSpec

__all__ = ["Plan", "UserFunction", "plan", "structure"]


def plan(spec: TrainSpec) -> Plan:
    """The plan of a frozen spec's script."""
    from carl_bundle.spec.defaults import resolve

    resolved = resolve(spec)
    named = [reward.function for reward in resolved.rewards]
    named += [*resolved.tools, *(one.factory for one in resolved.environments)]
    functions = [name for name in named if name is not None]
    reporters = [name for name in resolved.report_to if name != "none"]
    others = ["bitsandbytes"] if resolved.model.quantize else []
    others += ["vllm"] if resolved.sampled and resolved.sampled.vllm else []
    others += ["pillow", "torchvision"] if resolved.vision else []
    others += ["deepspeed"] if resolved.sharding.startswith("zero") else []
    return Plan(
        recipe=spec.method,
        template="train.py.jinja",
        choices=structure(resolved),
        config=configuration(resolved, spec),
        user_code=tuple(UserFunction(*name.rsplit(":", 1)) for name in functions),
        dependencies=(*spec.dependencies, *reporters, *others),
    )
