"""`carl inspect`: what a model is, what a spec would do, what that takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carl_bundle.cli.output import note, write_json, write_stdout
from carl_bundle.errors import UsageError

if TYPE_CHECKING:
    from carl_bundle.spec.cost import Cost
    from carl_bundle.spec.measure import Measurement
    from carl_bundle.spec.model_spec import ModelSpec
    from carl_bundle.spec.train_spec import TrainSpec
    from carl_bundle.spec.vram import VRAMBudget

SCHEMA = "carl.inspect/1"


@dataclass(frozen=True)
class Report:
    """Everything that `carl inspect` shows."""

    model: ModelSpec | None
    measurement: Measurement | None
    plan: TrainSpec
    budgets: tuple[VRAMBudget, ...]
    cost: Cost


def inspect(
    target: Annotated[
        str, typer.Argument(help="A model (directory or owner/name), or a carl.yaml.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one object.")] = False,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure", help="Count exactly, by building the model without weights."
        ),
    ] = False,
    price: Annotated[
        float | None, typer.Option(help="Dollars an hour of the machine.", min=0)
    ] = None,
    step_seconds: Annotated[
        float | None, typer.Option(help="Measured seconds of one step.", min=0)
    ] = None,
    gpu_gib: Annotated[
        float | None, typer.Option(help="Memory of the GPU in GiB, for vLLM.", min=0)
    ] = None,
) -> None:
    """Show what a model is, what a spec would do with it, and what that takes."""
    for option, number in (
        ("--price", price),
        ("--step-seconds", step_seconds),
        ("--gpu-gib", gpu_gib),
    ):
        if number is not None and not math.isfinite(number):
            raise UsageError(f"{option} is {number}", remedy="give a finite number")
    memory = None if gpu_gib is None else int(gpu_gib * 2**30)
    report = _report(target, measure, price, step_seconds, memory)
    if as_json:
        write_json(SCHEMA, **_as_dict(report))
        return
    from carl_bundle.cli.inspect_text import render

    write_stdout("".join(f"{line}\n" for line in render(report)))


def _report(
    target: str,
    measure: bool,
    price: float | None,
    step_seconds: float | None,
    gpu_bytes: int | None,
) -> Report:
    from carl_bundle.spec.cost import estimate_cost
    from carl_bundle.spec.defaults import resolve
    from carl_bundle.spec.freeze import describe
    from carl_bundle.spec.model_spec import ModelSpec
    from carl_bundle.spec.vram import VRAMBudget

    spec = _spec(target)
    model = None
    if not spec.model.is_builtin:
        model = ModelSpec.from_pretrained(
            spec.model.id,
            spec.model.revision,
            trust_remote_code=spec.model.trust_remote_code,
        )
        # Defaults depend on what the model is, just as they do in a bundle.
        found = spec.model.model_copy(update={"frozen": describe(model)})
        spec = spec.model_copy(update={"model": found})
    plan = resolve(spec)
    if measure and model is None:
        raise UsageError(
            "the built-in model is made inside the script; there is nothing to measure",
            remedy="name a model, or leave --measure out",
        )
    measurement = model.measure() if model is not None and measure else None
    budgets = tuple(
        VRAMBudget.estimate(
            plan, model, phase, measurement=measurement, gpu_bytes=gpu_bytes
        )
        for phase in plan.phases
        if model is not None
    )
    cost = estimate_cost(plan, step_seconds, price)
    return Report(model, measurement, plan, budgets, cost)


def _spec(target: str) -> TrainSpec:
    """Return the spec in a file, or the defaults for a model."""
    from carl_bundle.spec.load import load

    if target == "-" or target.endswith((".yaml", ".yml")) or Path(target).is_file():
        loaded = load(target)
        for text in loaded.notes:
            note(text)
        return loaded.spec
    return load(flags={"model.id": target}).spec


def _as_dict(report: Report) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "model": report.model.as_dict() if report.model else None,
        "measurement": asdict(report.measurement) if report.measurement else None,
        "plan": report.plan.model_dump(mode="json"),
        "budgets": [budget.as_dict() for budget in report.budgets],
        "cost": report.cost.as_dict(),
    }
