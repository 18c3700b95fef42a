"""`carl logs`: what a job printed."""

from __future__ import annotations

import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from carl_bundle.cli.output import write_bytes

if TYPE_CHECKING:
    from carl_bundle.jobs.records import JobRecord, Records

PAUSE = 0.5  # seconds
LOST = 5


def logs(
    job: Annotated[str, typer.Argument(help="A job's id, or how it begins.")],
    follow_: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on until the job ends.")
    ] = False,
    offset: Annotated[
        int, typer.Option(help="Begin at this byte of the log.", min=0)
    ] = 0,
) -> int:
    """Print the log of a job. With -f: until it ends, and exit as its script did."""
    from carl_bundle.jobs.lifecycle import refresh
    from carl_bundle.jobs.records import Records

    records = Records()
    record = refresh(records, records.find(job))
    if follow_:
        return follow(records, record, offset)
    show(record, offset)
    return 0


def show(record: JobRecord, offset: int) -> int:
    """Print the log from a byte on, as far as it goes; the byte it ends before."""
    from carl_bundle.backends.compute import Compute
    from carl_bundle.jobs.lifecycle import persistent

    backend, ref = Compute.parse(record.compute).connect(), record.ref
    while ref is not None:
        chunk: bytes = persistent(partial(backend.log, ref, offset))
        if not chunk:
            break
        write_bytes(chunk)
        offset += len(chunk)
    return offset


def follow(records: Records, record: JobRecord, offset: int = 0) -> int:
    """Print the log of a job until it ends; its exit code, 5 if that is not known.

    Whoever interrupts it leaves the job as it is.
    """
    from carl_bundle.jobs.lifecycle import refresh

    while True:
        record = refresh(records, record)
        offset = show(record, offset)
        if record.state.is_end:
            break
        time.sleep(PAUSE)
    reason = f": {record.reason}" if record.reason else ""
    print(f"job {record.id}: {record.state}{reason}", file=sys.stderr)
    return LOST if record.exit_code is None else record.exit_code
