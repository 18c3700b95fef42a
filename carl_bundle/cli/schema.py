"""`carl schema`: print the JSON Schema of carl.yaml."""

from __future__ import annotations

import typer


def schema() -> None:
    """Print the JSON Schema of carl.yaml, for editors."""
    from carl_bundle.spec.schema import render_schema

    typer.echo(render_schema(), nl=False)
