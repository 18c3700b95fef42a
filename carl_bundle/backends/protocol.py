"""What every backend can do, and the one set of states that jobs have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

RESUMABLE = 85


class State(StrEnum):
    """Where a job is on its way; the last six are ends."""

    PENDING = "pending"  # ours alone: no backend has said that it has it
    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    UNKNOWN = "unknown"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"
    TIMEOUT = "timeout"
    PREEMPTED = "preempted"
    LOST = "lost"

    @property
    def is_end(self) -> bool:
        return self in ENDS


ENDS = frozenset(
    {
        State.SUCCEEDED,
        State.FAILED,
        State.STOPPED,
        State.TIMEOUT,
        State.PREEMPTED,
        State.LOST,
    }
)


@dataclass(frozen=True)
class JobStatus:
    """What a backend says of a job.

    Attributes:
        reason: Why it is so, in words.
        exit_code: That of the script, once it has ended and if it is known.
        started: Seconds since 1970 by the clock of the host.
        seconds: How long it ran, or has run.
        raw: What the backend itself calls it.
        log_size: Bytes of its log so far, where that is known.
    """

    state: State
    reason: str = ""
    exit_code: int | None = None
    started: float | None = None
    seconds: float | None = None
    raw: str = ""
    log_size: int = 0

    @property
    def is_resumable(self) -> bool:
        """Whether the script said that it can go on from a checkpoint."""
        return self.exit_code == RESUMABLE


@dataclass(frozen=True)
class Job:
    """What is to be run somewhere.

    Attributes:
        key: Our id; a backend that has a job with it already adopts that one.
        files: The script and its data: names below the working folder, and contents
            or paths.
        links: Names below the working folder, and the paths on that host they stand
            for.
        command: Program and arguments.
        environment: Variables that everybody may read.
        secrets: Variables that nobody may, but the script.
        limit: Seconds after which the host ends it.
        grace: Seconds between asking it to end and ending it.
        output: The folder, below the working one, of what it makes.
        copy: A folder that the host sees, to which that is copied while it runs.
        seed: Such a copy, of another job, that it goes on from.
        every: Seconds between two looks for something to copy.
    """

    key: str
    files: Mapping[str, bytes | Path]
    command: tuple[str, ...]
    links: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    limit: float | None = None
    grace: float = 60.0
    output: str = "runs"
    copy: str | None = None
    seed: str | None = None
    every: float = 10.0


class Backend(Protocol):
    """A place that runs scripts. `ref` is what it calls a job of ours.

    Every method may raise RemoteError (the other side failed; trying again may help)
    and ConfigurationError (a tool or a credential is missing).
    """

    name: str

    def plan(self, job: Job) -> dict[str, Any]:
        """What `submit` would do: the exact request, files by size, no secrets."""

    def submit(self, job: Job) -> str:
        """Start a job, or adopt the one that has its key; what it is called there."""

    def find(self, key: str) -> str | None:
        """What a job with this key is called there, None if there is none."""

    def restart(self, ref: str, secrets: Mapping[str, str]) -> None:
        """Run a job that has ended once more, where its checkpoints are."""

    def status(self, ref: str) -> JobStatus: ...

    def log(self, ref: str, offset: int, count: int = 1 << 20) -> bytes:
        """Up to `count` bytes of what it printed, from byte `offset` on."""

    def stop(self, ref: str, grace: float) -> None:
        """Ask it to end, and end it after `grace` seconds. Again does no harm."""

    def fetch(self, ref: str, target: Path) -> list[str]:
        """Copy what it made below `target`, checked; the names of the files."""

    def list(self) -> dict[str, JobStatus]:
        """All jobs of ours that it has, by what it calls them."""
