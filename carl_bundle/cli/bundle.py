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
    accelerate: Annotated[
        bool,
        typer.Option(
            "--accelerate", help="Write the file for accelerate launch, not the script."
        ),
    ] = False,
) -> int:
    """Write the training script of a spec to stdout, or to a file with -o."""
    frozen = options.frozen_spec(
        spec, model, method, dataset, seed, name, no_carl, assignments
    )
    if accelerate:
        return _put_accelerate(frozen, output, force)
    text = _resolved(frozen) if resolved else options.script(frozen, spec)
    if check:
        return _check(text, output)
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


def _resolved(frozen: TrainSpec) -> str:
    from carl_bundle.cli.resolved import to_yaml

    return to_yaml(frozen.document())


def _put_accelerate(frozen: TrainSpec, script: Path | None, force: bool) -> int:
    """Write what accelerate reads beside a script: train.accelerate.yaml."""
    from carl_bundle.recipes.sharding import accelerate_text

    output = script and script.with_suffix(".accelerate.yaml")
    _put(accelerate_text(frozen), output, force)
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
