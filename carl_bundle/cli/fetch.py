"""`carl fetch`: bring home what a job made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from carl_bundle.cli.output import write_stdout
from carl_bundle.errors import UsageError


def fetch(
    job: Annotated[str, typer.Argument(help="A job's id, or how it begins.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The folder to put it in.")
    ] = Path(),
) -> int:
    """Copy the run directory of a job here; every file is checked by its digest."""
    from carl_bundle.backends.compute import Compute
    from carl_bundle.jobs.lifecycle import persistent, refresh
    from carl_bundle.jobs.records import Records

    records = Records()
    record = refresh(records, records.find(job))
    ref = record.ref
    if ref is None:
        raise UsageError(f"job {record.id} has not begun", remedy="carl status tells")
    backend = Compute.parse(record.compute).connect()
    names = persistent(lambda: backend.fetch(ref, output))
    write_stdout("".join(f"{output / name}\n" for name in names))
    return 0
