"""`carl resume`: go on with a job that has ended, there or elsewhere."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated

import typer

from carl_bundle.cli import money
from carl_bundle.errors import UsageError

if TYPE_CHECKING:
    from carl_bundle.jobs.records import JobRecord, Records


def resume(
    job: Annotated[str, typer.Argument(help="A job's id, or how it begins.")],
    compute: Annotated[
        str | None,
        typer.Option(help="Go on there, from the copies of --destination."),
    ] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Pass this variable on, unseen; repeatable."),
    ] = None,
    python: Annotated[
        str | None, typer.Option(help="With --compute: the interpreter there.")
    ] = None,
    yes: money.Yes = False,
    max_cost: money.MaxCost = None,
    detach: Annotated[
        bool, typer.Option("--detach/--follow", help="Return at once, or show its log.")
    ] = False,
) -> int:
    """Run a job's script again: it goes on from its last checkpoint."""
    from carl_bundle.backends.protocol import State
    from carl_bundle.cli.logs import follow
    from carl_bundle.jobs.lifecycle import refresh
    from carl_bundle.jobs.records import Records

    records = Records()
    record = refresh(records, records.find(job))
    if not record.state.is_end:
        remedy = f"carl logs -f {record.id} shows it, carl stop {record.id} ends it"
        raise UsageError(f"job {record.id} is {record.state}", remedy=remedy)
    if record.state is State.SUCCEEDED:
        remedy = f"carl fetch {record.id} brings its results"
        raise UsageError(f"job {record.id} is done", remedy=remedy)
    shown = 0
    if compute is None:
        record, shown = _there(records, record, secret, yes, max_cost)
    else:
        record = _elsewhere(records, record, compute, secret, python, yes, max_cost)
    print(f"job {record.id}: goes on", file=sys.stderr)
    return 0 if detach else follow(records, record, shown)


def _there(
    records: Records,
    record: JobRecord,
    secret: list[str] | None,
    yes: bool,
    max_cost: float | None,
) -> tuple[JobRecord, int]:
    """Start it again in its own folder; its record, and how long its log is."""
    from carl_bundle.backends.compute import Compute
    from carl_bundle.backends.protocol import State
    from carl_bundle.jobs.lifecycle import persistent
    from carl_bundle.jobs.submission import secrets_of

    ref, secrets = record.ref, secrets_of(secret or ())
    backend = Compute.parse(record.compute).connect()
    said = persistent(lambda: backend.status(ref or ""))
    if ref is None or said.raw == "missing":
        remedy = "carl resume --compute X goes on from its copy, if it has one"
        raise UsageError(f"there is nothing of job {record.id} there", remedy=remedy)
    if hasattr(backend, "charge"):
        money.agree(persistent(lambda: backend.charge(ref)), yes, max_cost)
    persistent(lambda: backend.restart(ref, secrets))
    again = {"state": State.STARTING, "reason": "", "exit_code": None}
    return records.change(record.id, "resumed", **again), said.log_size


def _elsewhere(
    records: Records,
    record: JobRecord,
    compute: str,
    secret: list[str] | None,
    python: str | None,
    yes: bool,
    max_cost: float | None,
) -> JobRecord:
    """Submit its script as a new job that begins with the copy of the old one."""
    from carl_bundle.backends.compute import Compute
    from carl_bundle.cli.train import copy_at, make_job, make_record
    from carl_bundle.jobs.lifecycle import submit

    if record.copy is None:
        raise UsageError(
            f"nothing of job {record.id} was copied elsewhere",
            remedy=f"carl resume {record.id} where it ran, or next time --destination",
        )
    where = Compute.parse(compute)
    backend, text = where.connect(), records.script(record.script_sha256)
    made = make_job(text, where.backend, record.time_limit, secret, python)
    destination = str(PurePosixPath(record.copy).parent)
    made = replace(made, seed=record.copy, copy=copy_at(destination, made.key))
    money.agree(backend.plan(made), yes, max_cost)
    digest = record.script_sha256
    new = make_record(made, compute, record.name, digest, resumes=record.id)
    return submit(records, backend, new, made)
