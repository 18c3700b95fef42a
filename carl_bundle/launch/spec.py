"""What every launch file is written from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from carl_bundle.errors import UsageError
from carl_bundle.spec.train_spec import TrainSpec

GRACE = 90
"""Seconds for a checkpoint between a request to end and the end."""

IMAGE = "ghcr.io/astral-sh/uv:python3.12-bookworm"
"""Where containers run: `uv`, Python and a C compiler; torch brings CUDA along."""

GPUS = re.compile(r"(?:(?P<kind>[A-Za-z][A-Za-z0-9_.-]*):)?(?P<count>\d{1,3})")


@dataclass(frozen=True)
class LaunchSpec:
    """A script, and the machines that it is to run on.

    Attributes:
        name: Of the job.
        script: The file name of the script, in the folder that it is launched from.
        text: What that file holds.
        nodes: Machines.
        gpus: GPUs of each machine.
        gpu: Their kind, as the scheduler calls it; "" for any.
        limit: Seconds after which it is to end.
        secrets: Names of variables that the script may need.
        data: Files and folders that it reads, relative to its own.
        run_dir: Where it writes, relative to its own folder unless absolute.
        one_phase: Whether a launcher on several machines can run it.
        sandbox: Whether it runs programs that a model wrote.
    """

    name: str
    script: str
    text: str
    nodes: int = 1
    gpus: int = 1
    gpu: str = ""
    limit: float | None = None
    secrets: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    run_dir: str = "runs/carl"
    one_phase: bool = True
    sandbox: bool = False

    def __post_init__(self) -> None:
        if self.nodes > 1 and not self.one_phase:
            raise UsageError(
                "several machines run one phase, and a pipeline has several",
                remedy="run method: sft, then method: grpo; or take --nodes 1",
            )

    @property
    def label(self) -> str:
        """The name as images, jobs and volumes may be called."""
        plain = re.sub(r"[^a-z0-9]+", "-", self.name.lower())
        return plain[:50].strip("-")

    @property
    def command(self) -> list[str]:
        """Program and arguments on one machine, ended at the limit.

        In the foreground `timeout` signals its child alone: a second signal, to the
        group, would end a script before its checkpoint is written.
        """
        ends = ["timeout", "--foreground", "--signal=TERM", f"--kill-after={GRACE}"]
        limit = [*ends, f"{self.limit:.0f}"] if self.limit else []
        return [*limit, "uv", "run", self.script]

    def on_one_machine(self, kind: str) -> None:
        """UsageError if there are to be several."""
        if self.nodes > 1:
            raise UsageError(
                f"{kind} is for one machine: several must share a run directory",
                remedy="use --emit sbatch, or leave out --nodes",
            )


def launch_spec(
    frozen: TrainSpec, script: str, text: str, **machines: Any
) -> LaunchSpec:
    """What a frozen spec says of how to launch its script.

    Args:
        machines: nodes, gpus, gpu and limit.
    """
    from carl_bundle.jobs.submission import linked, local_paths
    from carl_bundle.recipes import plan
    from carl_bundle.spec.defaults import resolve

    found, spec = plan(frozen), resolve(frozen)
    paths = [path for path in local_paths(found.config) if not path.is_absolute()]
    choices = found.choices
    return LaunchSpec(
        name=spec.name,
        script=script,
        text=text,
        secrets=secret_names(spec),
        data=tuple(linked(paths)),
        run_dir=spec.run_dir,
        one_phase=spec.method != "pipeline",
        sandbox=bool(choices["python_environment"] or choices["sql_environment"]),
        **machines,
    )


def secret_names(spec: TrainSpec) -> tuple[str, ...]:
    """The variables with credentials that a script of this spec may use."""
    blocks = [phase.data or spec.data for phase in spec.phases.values()]
    hub = any(one.source == "hub" for block in blocks for one in block.sources)
    hub = hub or not spec.model.is_builtin or spec.push.enabled
    wandb = "wandb" in spec.report_to
    return (*["HF_TOKEN"] * hub, *["WANDB_API_KEY"] * wandb)


def machines_of(
    nodes: int | None, gpus: str | None, limit: str | None
) -> dict[str, Any]:
    """Fields of a LaunchSpec, from options. UsageError if one makes no sense."""
    from carl_bundle.jobs.submission import seconds

    if nodes is not None and nodes < 1:
        raise UsageError(f"{nodes} machines run nothing", remedy="take --nodes 1")
    count, kind = gpus_of(gpus or "1")
    time = seconds(limit) if limit else None
    return {"nodes": nodes or 1, "gpus": count, "gpu": kind, "limit": time}


def gpus_of(text: str) -> tuple[int, str]:
    """The count and the kind that `8` or `H100:8` name. UsageError if it is neither."""
    match = GPUS.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} names no GPUs", remedy="write it as 8 or H100:8")
    return int(match["count"]), match["kind"] or ""
