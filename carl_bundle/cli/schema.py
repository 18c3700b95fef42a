"""`carl schema`: print the JSON Schema of carl.yaml."""

from __future__ import annotations

from carl_bundle.cli.output import write_stdout


def schema() -> None:
    """Print the JSON Schema of carl.yaml, for editors."""
    from carl_bundle.spec.schema import render_schema

    write_stdout(render_schema())
