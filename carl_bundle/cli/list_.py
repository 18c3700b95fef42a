"""`carl list`: every job that was submitted from this account."""

from __future__ import annotations

from typing import Annotated

import typer

from carl_bundle.cli.output import write_json, write_stdout


def list_(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object.")
    ] = False,
) -> int:
    """List jobs as they were last heard of; nothing is asked over a network."""
    from carl_bundle.cli.jobs import line
    from carl_bundle.jobs.records import Records

    found = Records().all()
    if as_json:
        write_json("carl.jobs/1", jobs=[one.document() for one in found])
    else:
        write_stdout("".join(map(line, found)))
    return 0
