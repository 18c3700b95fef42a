"""`carl bundle`: from a spec to its script."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carl_bundle.cli import options
from carl_bundle.cli.output import note, write_file, write_stdout
from carl_bundle.errors import BundleError, UsageError

if TYPE_CHECKING:
    from carl_bundle.spec.train_spec import TrainSpec

Emit = Annotated[
    str | None,
    typer.Option(
        metavar="KIND",
        help="Write a launch file alone: accelerate, sbatch, sky, k8s or docker.",
    ),
]
Nodes = Annotated[int | None, typer.Option(help="With --emit: machines.")]
Gpus = Annotated[
    str | None, typer.Option(help="With --emit: of each machine, as 8 or H100:8.")
]
Limit = Annotated[str | None, typer.Option("--time", help="With --emit: such as 8h.")]
ALONE = "--emit, --accelerate, --resolved, --check and --lock each write their own"


def bundle(
    spec: options.Spec = None,
    model: options.Model = None,
    method: options.Method = None,
    dataset: options.Dataset = None,
    seed: options.Seed = None,
    name: options.Name = None,
    no_carl: options.NoCarl = False,
    assignments: options.Assignments = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File instead of stdout.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite even an edited file.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; compare with -o FILE.")
    ] = False,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Print the frozen spec, not the script.")
    ] = False,
    emit: Emit = None,
    accelerate: Annotated[
        bool, typer.Option("--accelerate", help="Short for --emit accelerate.")
    ] = False,
    nodes: Nodes = None,
    gpus: Gpus = None,
    limit: Limit = None,
    lock: Annotated[
        bool, typer.Option("--lock", help="With -o: FILE.lock and its sidecar, too.")
    ] = False,
    target: options.Target = None,
) -> int:
    """Write the training script of a spec to stdout, or to a file with -o."""
    frozen = options.frozen_spec(
        spec, model, method, dataset, seed, name, no_carl, assignments
    )
    machines = (nodes, gpus, limit)
    if emit or accelerate or machines != (None, None, None):
        if (emit is not None) + accelerate + resolved + check + lock > 1:
            raise UsageError(ALONE, remedy="take one of them")
        kind = "accelerate" if accelerate else emit
        text = options.script(frozen, spec)
        return _put_launch(kind, frozen, text, output, force, machines)
    text = _resolved(frozen) if resolved else options.script(frozen, spec)
    if check:
        return _check(text, output)
    if lock or target:
        return _put_locked(text, frozen, output, target, force)
    _put(text, output, force)
    return 0


def _put(text: str, output: Path | None, force: bool) -> None:
    """Write to stdout, or to a file that holds no work of the user's."""
    if output is None:
        write_stdout(text)
        return
    if not force:
        _refuse_loss(output, text)
    write_file(output, text)


def _put_locked(
    text: str, frozen: TrainSpec, output: Path | None, target: str | None, force: bool
) -> int:
    """Write a script, its lock, and the file that says what it was made from."""
    import json

    from carl_bundle.packing import lock

    if output is None:
        raise UsageError("a lock lies beside its script", remedy="write it with -o")
    beside = lock.lock_of(output)
    ours = not beside.exists() or beside.read_text("utf-8").startswith(lock.HEAD)
    if not (ours or force):
        raise UsageError(
            f"{beside} exists and is no lock of carl bundle",
            remedy="remove it, or overwrite it with --force",
        )
    found, wheels = lock.locked(text, options.target_of(target))
    pins = lock.lock_text(found, wheels)
    origin = lock.provenance(text, pins, found, frozen)
    _put(text, output, force)
    write_file(beside, pins)
    write_file(lock.provenance_of(output), json.dumps(origin, indent=2) + "\n")
    note(f"locked {len(wheels)} wheels for {found}; `uv run` cannot read this lock")
    return 0


def _resolved(frozen: TrainSpec) -> str:
    from carl_bundle.cli.resolved import to_yaml

    return to_yaml(frozen.document())


def _put_launch(
    kind: str | None,
    frozen: TrainSpec,
    text: str,
    script: Path | None,
    force: bool,
    machines: tuple[int | None, str | None, str | None],
) -> int:
    """Write what a launcher reads beside a script, such as train.sbatch."""
    from carl_bundle.launch.emit import launch_file
    from carl_bundle.launch.spec import launch_spec, machines_of
    from carl_bundle.recipes.sharding import accelerate_text

    if kind == "accelerate" and machines == (None, None, None):
        content = accelerate_text(frozen)
        output = script and script.with_suffix(".accelerate.yaml")
    elif kind in (None, "accelerate"):
        raise UsageError(
            "--nodes, --gpus and --time are for files of schedulers",
            remedy="add --emit sbatch, or leave them out",
        )
    else:
        called = script.name if script else "train.py"
        spec = launch_spec(frozen, called, text, **machines_of(*machines))
        name, content = launch_file(kind, spec)
        output = script and script.with_name(name)
    _put(content, output, force)
    return 0


def _check(text: str, output: Path | None) -> int:
    """Whether black leaves the script as it is, and a file holds just that."""
    import black

    if black.format_str(text, mode=black.Mode()) != text:
        raise BundleError(
            "black would change the script",
            remedy="report this with the spec: it is a mistake in carl-bundle",
        )
    if output is None:
        note("black leaves the script as it is")
        return 0
    try:
        same = output.read_bytes() == text.encode("utf-8")
    except OSError as error:
        raise UsageError(
            f"cannot read {output}: {error.strerror}", remedy="check the path"
        ) from error
    if not same:
        note(f"{output} is not what this spec renders; carl diff shows how two differ")
    return 0 if same else 1


def _refuse_loss(output: Path, text: str) -> None:
    """Raise UsageError if a file holds work that is not ours to overwrite."""
    if not output.is_file() or output.read_bytes() in (b"", text.encode("utf-8")):
        return
    from carl_bundle.bundler.provenance import ForeignError, Script
    from carl_bundle.bundler.verify import verify

    try:
        found = verify(Script.read(output))
    except ForeignError as error:
        raise UsageError(
            f"{output} exists and is no script of carl bundle",
            remedy="choose another file, or overwrite it with --force",
        ) from error
    if found.status != "PRISTINE":
        sections = ", ".join(dict.fromkeys(f.section for f in found.findings))
        raise UsageError(
            f"{output} has been edited ({sections})",
            remedy="choose another file, or overwrite it with --force",
        )
