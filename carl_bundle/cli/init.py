"""`carl init`: write a commented carl.yaml."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from carl_bundle.cli.output import note, write_file, write_stdout
from carl_bundle.errors import UsageError


def init(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="File to write; - is stdout.")
    ] = Path("carl.yaml"),
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite an existing file.")
    ] = False,
) -> None:
    """Write a commented carl.yaml that `carl bundle` accepts."""
    text = files("carl_bundle.cli").joinpath("carl.yaml").read_text(encoding="utf-8")
    if str(output) == "-":
        write_stdout(text)
        return
    if output.exists() and not force:
        raise UsageError(
            f"{output} exists", remedy="choose another name with -o, or add --force"
        )
    write_file(output, text)
    note(f"wrote {output}; next: carl bundle {output} > train.py")
