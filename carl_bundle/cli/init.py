"""`carl init`: write a commented carl.yaml."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from carl_bundle.cli.files import write_new


def init(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where to write it; - is stdout.")
    ] = Path("carl.yaml"),
    force: Annotated[bool, typer.Option(help="Overwrite an existing file.")] = False,
) -> None:
    """Write a commented carl.yaml that `carl bundle` accepts."""
    text = files("carl_bundle.cli").joinpath("carl.yaml").read_text(encoding="utf-8")
    if str(output) == "-":
        typer.echo(text, nl=False)
        return
    write_new(output, text, force=force)
    typer.echo(f"wrote {output}; next: carl bundle {output} > train.py", err=True)
