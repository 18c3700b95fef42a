"""`carl resume`: go on with a job that has ended."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from carl_bundle.errors import UsageError


def resume(
    job: Annotated[str, typer.Argument(help="A job's id, or how it begins.")],
    secret: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Pass this variable on, unseen; repeatable."),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach/--follow", help="Return at once, or show its log.")
    ] = False,
) -> int:
    """Run a job's script again where it ran: it goes on from its last checkpoint."""
    from carl_bundle.backends.compute import Compute
    from carl_bundle.backends.protocol import State
    from carl_bundle.cli.logs import follow
    from carl_bundle.jobs.lifecycle import persistent, refresh
    from carl_bundle.jobs.records import Records
    from carl_bundle.jobs.submission import secrets_of

    records = Records()
    record = refresh(records, records.find(job))
    ref = record.ref
    if not record.state.is_end or ref is None:
        remedy = f"carl logs -f {record.id} shows it, carl stop {record.id} ends it"
        raise UsageError(f"job {record.id} is {record.state}", remedy=remedy)
    if record.state is State.SUCCEEDED:
        remedy = f"carl fetch {record.id} brings its results"
        raise UsageError(f"job {record.id} is done", remedy=remedy)
    backend, secrets = Compute.parse(record.compute).connect(), secrets_of(secret or ())
    shown = persistent(lambda: backend.status(ref)).log_size
    persistent(lambda: backend.restart(ref, secrets))
    record = records.change(
        record.id, "resumed", state=State.STARTING, reason="", exit_code=None
    )
    print(f"job {record.id}: goes on", file=sys.stderr)
    return 0 if detach else follow(records, record, shown)
