"""`carl train`: the script of a spec, sent somewhere and run there."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carl_bundle.cli import money, options
from carl_bundle.cli.output import note, write_json
from carl_bundle.errors import UsageError

if TYPE_CHECKING:
    from carl_bundle.backends.protocol import Job
    from carl_bundle.jobs.records import JobRecord


def train(
    spec: options.Spec = None,
    model: options.Model = None,
    method: options.Method = None,
    dataset: options.Dataset = None,
    seed: options.Seed = None,
    name: options.Name = None,
    no_carl: options.NoCarl = False,
    assignments: options.Assignments = None,
    compute: Annotated[
        str,
        typer.Option(
            help="local, ssh@HOST, slurm[:PARTITION][@HOST] or hf:FLAVOR[@NAMESPACE]."
        ),
    ] = "local",
    timeout: Annotated[
        str | None, typer.Option(help="Its host ends it after 30m, 2h or 1d.")
    ] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Pass this variable on, unseen; repeatable."),
    ] = None,
    python: Annotated[
        str | None,
        typer.Option(help="Run it with this interpreter, not `uv run` (local: ours)."),
    ] = None,
    sbatch: Annotated[
        list[str] | None,
        typer.Option(metavar="OPTION", help="For slurm, as --gpus=1; repeatable."),
    ] = None,
    destination: Annotated[
        str | None,
        typer.Option(help="Copy what it saves to this folder, which its host sees."),
    ] = None,
    accept: Annotated[
        list[str] | None,
        typer.Option(metavar="PHASE", help="Go on although this phase has failed."),
    ] = None,
    yes: money.Yes = False,
    max_cost: money.MaxCost = None,
    detach: Annotated[
        bool, typer.Option("--detach/--follow", help="Return at once, or show its log.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the job as JSON, and return at once.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be sent; send nothing.")
    ] = False,
) -> int:
    """Run the script that `carl bundle` would print; it goes on when you leave."""
    from carl_bundle.backends.compute import Compute
    from carl_bundle.cli.logs import follow
    from carl_bundle.jobs.lifecycle import submit
    from carl_bundle.jobs.records import Records
    from carl_bundle.jobs.submission import seconds

    frozen = options.frozen_spec(
        spec, model, method, dataset, seed, name, no_carl, assignments
    )
    if frozen.data.is_builtin:
        note("no data set is named: it trains on the built-in task")
    where = Compute.parse(compute, sbatch or ())
    backend, text = where.connect(), options.script(frozen, spec)
    accepted = [word for phase in accept or [] for word in ("--accept", phase)]
    limit = seconds(timeout) if timeout else None
    job = make_job(text, where.backend, limit, secret, python, accepted)
    if destination:
        job = replace(job, copy=copy_at(destination, job.key))
    plan = backend.plan(job)
    if dry_run:
        write_json("carl.plan/1", compute=compute, **plan)
        return 0
    money.agree(plan, yes, max_cost)
    records = Records()
    digest = records.keep_script(text)
    record = make_record(job, compute, frozen.name, digest)
    record = submit(records, backend, record, job)
    if as_json:
        write_json("carl.job/1", **record.document())
        return 0
    print(f"job {record.id}: {record.name} on {compute}", file=sys.stderr)
    print(f"  carl status|logs|stop|fetch {record.id[:6]}", file=sys.stderr, flush=True)
    return 0 if detach else follow(records, record)


def copy_at(destination: str, key: str) -> str:
    """Where the copy of a job lies, an absolute path or one below the home there."""
    if not destination.startswith(("/", "~/")):
        remedy = "name it as its host does: /shared/runs, or ~/runs"
        raise UsageError(f"{destination} is no absolute path", remedy=remedy)
    return f"{destination.rstrip('/')}/{key}"


def make_job(
    text: str,
    backend: str,
    limit: float | None = None,
    secret: list[str] | None = None,
    python: str | None = None,
    arguments: Sequence[str] = (),
) -> Job:
    """A script and what it needs, as a new job. UsageError if it holds a secret."""
    from carl_bundle.backends.protocol import Job
    from carl_bundle.bundler.provenance import Script
    from carl_bundle.jobs import submission
    from carl_bundle.jobs.lifecycle import new_key

    secrets, config = submission.secrets_of(secret or ()), Script.parse(text).config
    submission.check_no_secret(text, secrets)
    paths, here = submission.local_paths(config), backend == "local"
    interpreter = python or (sys.executable if here else None)
    runs = (interpreter,) if interpreter else ("uv", "run")
    files: dict[str, Any] = {} if here else submission.sent(paths)
    return Job(
        key=new_key(),
        files={**files, "train.py": text.encode()},
        links=submission.linked(paths) if here else {},
        command=(*runs, "train.py", *arguments),
        secrets=secrets,
        limit=limit,
        output=config["run_dir"],
    )


def make_record(
    job: Job, compute: str, name: str, digest: str, resumes: str | None = None
) -> JobRecord:
    """The record of a job that is about to be submitted."""
    from carl_bundle.backends.protocol import State
    from carl_bundle.jobs.records import JobRecord

    now = time.time()
    return JobRecord(
        id=job.key,
        compute=compute,
        ref=None,
        name=name,
        state=State.PENDING,
        reason="",
        exit_code=None,
        created=now,
        updated=now,
        started=None,
        seconds=None,
        time_limit=job.limit,
        script_sha256=digest,
        resumes=resumes,
        copy=job.copy,
    )
