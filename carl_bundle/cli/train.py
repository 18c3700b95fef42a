"""`carl train`: the script of a spec, sent somewhere and run there."""

from __future__ import annotations

import hashlib
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carl_bundle.cli import options
from carl_bundle.cli.output import note, write_json

if TYPE_CHECKING:
    from carl_bundle.backends.protocol import Job
    from carl_bundle.jobs.records import JobRecord
    from carl_bundle.spec.train_spec import TrainSpec


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
        str, typer.Option(help="local, ssh@HOST, or slurm[:PARTITION][@HOST].")
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
    accept: Annotated[
        list[str] | None,
        typer.Option(metavar="PHASE", help="Go on although this phase has failed."),
    ] = None,
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
    from carl_bundle.jobs.lifecycle import new_key, submit
    from carl_bundle.jobs.records import Records

    frozen = options.frozen_spec(
        spec, model, method, dataset, seed, name, no_carl, assignments
    )
    if frozen.data.is_builtin:
        note("no data set is named: it trains on the built-in task")
    where = Compute.parse(compute, sbatch or ())
    backend, text = where.connect(), options.script(frozen, spec)
    accepted = [word for phase in accept or [] for word in ("--accept", phase)]
    job = make_job(
        new_key(), frozen, text, where.backend, timeout, secret, python, accepted
    )
    if dry_run:
        write_json("carl.plan/1", compute=compute, **backend.plan(job))
        return 0
    records = Records()
    record = submit(records, backend, make_record(job, compute, frozen, text), job)
    if as_json:
        write_json("carl.job/1", **record.document())
        return 0
    print(f"job {record.id}: {record.name} on {compute}", file=sys.stderr)
    print(f"  carl status|logs|stop|fetch {record.id[:6]}", file=sys.stderr, flush=True)
    return 0 if detach else follow(records, record)


def make_job(
    key: str,
    frozen: TrainSpec,
    text: str,
    backend: str,
    timeout: str | None,
    secret: list[str] | None,
    python: str | None,
    arguments: list[str],
) -> Job:
    """A script and what it needs, as a job. UsageError if it holds a secret."""
    from carl_bundle.backends.protocol import Job
    from carl_bundle.jobs import submission
    from carl_bundle.recipes import plan

    secrets = submission.secrets_of(secret or ())
    submission.check_no_secret(text, secrets)
    paths, here = submission.local_paths(plan(frozen).config), backend == "local"
    interpreter = python or (sys.executable if here else None)
    runs = (interpreter,) if interpreter else ("uv", "run")
    files: dict[str, Any] = {} if here else submission.sent(paths)
    return Job(
        key=key,
        files={**files, "train.py": text.encode()},
        links=submission.linked(paths) if here else {},
        command=(*runs, "train.py", *arguments),
        secrets=secrets,
        limit=submission.seconds(timeout) if timeout else None,
        output=frozen.run_dir,
    )


def make_record(job: Job, compute: str, frozen: TrainSpec, text: str) -> JobRecord:
    """The record of a job that is about to be submitted."""
    from carl_bundle.backends.protocol import State
    from carl_bundle.jobs.records import JobRecord

    now = time.time()
    return JobRecord(
        id=job.key,
        compute=compute,
        ref=None,
        name=frozen.name,
        state=State.PENDING,
        reason="",
        exit_code=None,
        created=now,
        updated=now,
        started=None,
        seconds=None,
        time_limit=job.limit,
        script_sha256=hashlib.sha256(text.encode()).hexdigest(),
        resumes=None,
    )
