"""`carl stop`: end a job, with a checkpoint if it can."""

from __future__ import annotations

from typing import Annotated

import typer

from carl_bundle.cli.output import write_stdout


def stop(
    job: Annotated[str, typer.Argument(help="A job's id, or how it begins.")],
    grace: Annotated[
        float, typer.Option(help="Seconds it has for a checkpoint.", min=0)
    ] = 60.0,
) -> int:
    """Ask a job to write a checkpoint and end; `carl resume` goes on from there."""
    from carl_bundle.backends.compute import Compute
    from carl_bundle.cli.jobs import line
    from carl_bundle.jobs.lifecycle import persistent, refresh
    from carl_bundle.jobs.records import Records

    records = Records()
    record = refresh(records, records.find(job))
    ref = record.ref
    if ref is not None and not record.state.is_end:
        backend = Compute.parse(record.compute).connect()
        persistent(lambda: backend.stop(ref, grace))
        record = refresh(records, records.change(record.id, "stop asked"))
    write_stdout(line(record))
    return 0
