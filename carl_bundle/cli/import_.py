"""`carl import`: turn another tool's configuration into a carl.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carl_bundle.cli.output import note, show_error, write_file, write_stdout
from carl_bundle.errors import SpecError, UsageError

if TYPE_CHECKING:
    from carl_bundle.spec.imports import Format


def import_(
    file: Annotated[
        str, typer.Argument(help="A file of TRL, axolotl or LLaMA-Factory; - is stdin.")
    ],
    source: Annotated[
        str | None,
        typer.Option("--from", help="trl, axolotl or llamafactory; else by its keys."),
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="sft, grpo, rloo, dpo, kto or orpo.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File instead of stdout.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite an existing file.")
    ] = False,
) -> int:
    """Write a carl.yaml that trains what FILE trains, and list what it leaves out.

    Exits 0 if `carl bundle` accepts it, 1 if something is yet to be filled in.
    """
    from carl_bundle.cli.resolved import to_yaml
    from carl_bundle.spec.imports import detect, translate
    from carl_bundle.spec.load import read_document

    to_file = output is not None and str(output) != "-"
    if output is not None and to_file and output.exists() and not force:
        raise UsageError(
            f"{output} exists", remedy="choose another name with -o, or add --force"
        )
    settings = read_document(file)
    kind = _format(source) if source else detect(settings, file)
    folder = Path() if file == "-" else Path(file).parent
    result = translate(settings, kind, method, folder)
    if output is not None and to_file:
        write_file(output, to_yaml(result.document))
    else:
        write_stdout(to_yaml(result.document))
    for key, reason in result.dropped.items():
        note(f"{_short(key)} is not taken over: {reason}")
    for remark in result.remarks:
        note(remark)
    if result.problems:
        show_error(SpecError(result.problems))
    return 1 if result.problems else 0


def _format(name: str) -> Format:
    from carl_bundle.spec.imports import FORMATS

    for known in FORMATS:
        if name == known:
            return known
    raise UsageError(
        f"there is no format {name!r}", remedy=f"choose one of {', '.join(FORMATS)}"
    )


def _short(key: str) -> str:
    return key if len(key) <= 80 else f"{key[:77]}..."
