"""What names a training on the command line, and the script that it stands for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carl_bundle.cli.output import note

if TYPE_CHECKING:
    from carl_bundle.packing import target as packing
    from carl_bundle.spec.train_spec import TrainSpec

Spec = Annotated[
    str | None,
    typer.Argument(help="A carl.yaml, or - for stdin; the built-in demo if absent."),
]
Model = Annotated[str | None, typer.Option(help="Hub id, local directory, or builtin.")]
Method = Annotated[
    str | None, typer.Option(help="pipeline, sft, grpo, rloo, dpo, kto or orpo.")
]
Dataset = Annotated[str | None, typer.Option(help="Hub id, data file, or builtin.")]
Seed = Annotated[int | None, typer.Option(help="Seed of the run.")]
Name = Annotated[str | None, typer.Option(help="Name of the run.")]
NoCarl = Annotated[bool, typer.Option("--no-carl", help="Leave CARL out: the control.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set any field; repeatable."),
]

Target = Annotated[
    str | None,
    typer.Option(help="As cp312-linux-x86_64-cu130; this machine by default."),
]


def frozen_spec(
    spec: str | None,
    model: str | None,
    method: str | None,
    dataset: str | None,
    seed: int | None,
    name: str | None,
    no_carl: bool,
    assignments: list[str] | None,
) -> TrainSpec:
    """The spec that these options name, with all revisions pinned."""
    from carl_bundle.spec.class_limits import remarks
    from carl_bundle.spec.freeze import freeze
    from carl_bundle.spec.load import load

    flags: dict[str, Any] = {
        "model.id": model,
        "method": method,
        "data.id": dataset,
        "seed": seed,
        "name": name,
        "carl.enabled": False if no_carl else None,
    }
    loaded = load(spec, flags=flags, assignments=assignments or [])
    for text in loaded.notes:
        note(text)
    frozen = freeze(loaded.spec, note)
    for text in remarks(frozen):
        note(text)
    return frozen


def script(frozen: TrainSpec, spec: str | None) -> str:
    """The script of a frozen spec; user code is found beside the file of the spec."""
    from carl_bundle.bundler.render import render
    from carl_bundle.recipes import plan

    root = Path(spec).parent if spec and spec != "-" else Path()
    return render(plan(frozen), user_root=root)


def target_of(text: str | None) -> packing.Target:
    """The machine that `--target` names, or this one."""
    from carl_bundle.packing.target import Target

    return Target.parse(text) if text else Target.here()
