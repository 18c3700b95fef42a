"""Hosts that run our runner: this machine, or another one over SSH."""

from __future__ import annotations

import hashlib
import io
import json
import shlex
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from carl_bundle.backends.protocol import RESUMABLE, Job, JobStatus, State
from carl_bundle.errors import ConfigurationError, RemoteError, UsageError

if TYPE_CHECKING:
    from carl_bundle.backends.doctor import Check

RUNNER = Path(__file__).with_name("runner.py")
MIRROR = Path(__file__).with_name("mirror.py")
BOOT = (
    "import sys; i = sys.stdin.buffer; "
    "exec(compile(i.read(int(i.readline())), 'runner.py', 'exec'))"
)
"""Runs a program that comes by stdin, its length first; what follows is its own."""

REASONS = {
    1: "its verdict: failed",
    2: "the script refused to start",
    3: "its verdict: inconclusive",
    4: "credentials or configuration",
    5: "another service failed",
    RESUMABLE: "it can go on from a checkpoint",
    127: "its command cannot be started",
    137: "killed (out of memory?)",
}


IN_QUEUE = {
    "PENDING": (State.QUEUED, ""),
    "REQUEUED": (State.QUEUED, "it goes on from a checkpoint"),
    "REQUEUE_HOLD": (State.QUEUED, "held"),
    "SUSPENDED": (State.QUEUED, "suspended"),
    "CONFIGURING": (State.STARTING, ""),
    "RUNNING": (State.RUNNING, ""),
    "COMPLETING": (State.RUNNING, "ending"),
    "COMPLETED": (State.LOST, "it ended and left no exit code"),
    "CANCELLED": (State.STOPPED, "cancelled before it had begun, or by force"),
    "PREEMPTED": (State.PREEMPTED, "by Slurm"),
    "TIMEOUT": (State.TIMEOUT, "the limit of its partition"),
    "DEADLINE": (State.TIMEOUT, "its deadline"),
    "FAILED": (State.FAILED, "Slurm could not run it"),
    "BOOT_FAIL": (State.FAILED, "its node did not boot"),
    "NODE_FAIL": (State.LOST, "its node failed"),
    "OUT_OF_MEMORY": (State.FAILED, "out of memory"),
    "": (State.LOST, "Slurm does not know it any more, and it left no exit code"),
}
"""What Slurm says of a job that has left no exit code, in our words."""


class Transport(Protocol):
    """How a host is asked to do something."""

    name: str

    def run(
        self, arguments: Sequence[str], payload: BinaryIO | None, out: BinaryIO
    ) -> None:
        """Run the runner with arguments; RemoteError if that fails."""


class Here:
    """This machine."""

    name = "local"

    def run(
        self, arguments: Sequence[str], payload: BinaryIO | None, out: BinaryIO
    ) -> None:
        from carl_bundle.backends import runner

        operation, place, *rest = arguments
        try:
            runner.operate(operation, place, tuple(rest), payload or io.BytesIO(), out)
        except (OSError, ValueError) as error:
            raise RemoteError(f"{operation} failed: {error}") from error


class Ssh:
    """A host over OpenSSH, as `ssh HOST` reaches it: its config, keys and jumps."""

    name = "ssh"

    def __init__(self, host: str, options: Sequence[str] = ()) -> None:
        self.host = host
        self.command = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]
        self.command += ["-o", "ServerAliveInterval=15", *options, "--", host]

    def run(
        self, arguments: Sequence[str], payload: BinaryIO | None, out: BinaryIO
    ) -> None:
        remote = shlex.join(["python3", "-c", BOOT, *arguments])
        program = RUNNER.read_bytes()
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as wrong:
            given.write(b"%d\n%s" % (len(program), program))
            if payload is not None:
                given.write(payload.read())
            given.seek(0)
            try:
                done = subprocess.run(
                    [*self.command, remote], stdin=given, stdout=out, stderr=wrong
                )
            except FileNotFoundError as error:
                remedy = "install OpenSSH"
                raise ConfigurationError("there is no ssh", remedy=remedy) from error
            if done.returncode:
                wrong.seek(0)
                said = wrong.read().decode(errors="replace").strip().splitlines()
                raise self._error(done.returncode, said[-1] if said else "no message")

    def _error(self, code: int, said: str) -> Exception:
        refused = ("Permission denied", "Host key verification failed")
        if code == 255 and any(words in said for words in refused):
            remedy = f"make `ssh {self.host}` work without a question"
            return ConfigurationError(f"{self.host}: {said}", remedy=remedy)
        remedy = "try again: nothing is done twice"
        return RemoteError(f"{self.host}: {said}", remedy=remedy)


class HostBackend:
    """Jobs in folders of a host, each watched by a runner of its own.

    Attributes:
        sbatch: The options by which Slurm is to start them; None: no Slurm.
    """

    def __init__(
        self, transport: Transport, root: str, sbatch: Sequence[str] | None = None
    ) -> None:
        self.transport, self.root, self.sbatch = transport, root, sbatch
        self.name = transport.name if sbatch is None else "slurm"

    def plan(self, job: Job) -> dict[str, Any]:
        return {
            "folder": self._folder(job.key),
            "files": {name: len(_content(job, name)) for name in sorted(job.files)},
            "secrets": sorted(job.secrets),
            **self._told(job),
        }

    def submit(self, job: Job) -> str:
        self._begin("start", job.key, packed(job, self._told(job)))
        return job.key

    def find(self, key: str) -> str | None:
        return None if self._ask("status", key)["state"] == "missing" else key

    def restart(self, ref: str, secrets: Mapping[str, str]) -> None:
        self._begin("restart", ref, _secret_file(secrets))

    def status(self, ref: str) -> JobStatus:
        said = self._ask("status", ref)
        if said["state"] == "claimed":  # who put it there could not start it
            said = self._ask("start", ref, "0")
        return as_status(said)

    def log(self, ref: str, offset: int, count: int = 1 << 20) -> bytes:
        with tempfile.TemporaryFile() as out:
            self._call("read", ref, str(offset), str(count), out=out)
            out.seek(0)
            return out.read()

    def stop(self, ref: str, grace: float) -> None:
        self._ask("stop", ref, str(grace))

    def fetch(self, ref: str, target: Path) -> list[str]:
        with tempfile.TemporaryFile() as out:
            self._call("fetch", ref, out=out)
            out.seek(0)
            return unpacked(out, target)

    def list(self) -> dict[str, JobStatus]:
        found = self._ask("list", "")
        return {name: as_status(one) for name, one in found.items()}

    def doctor(self) -> Sequence[Check]:
        """Whether it can be reached, and what it has of what jobs need."""
        from carl_bundle.backends.doctor import host

        slurm, uv = self.sbatch is not None, self.name != "local"
        return host(lambda: self._ask("probe", ""), slurm, uv)

    def _told(self, job: Job) -> dict[str, Any]:
        """job.json."""
        queue = {} if self.sbatch is None else {"sbatch": list(self.sbatch)}
        return {
            "command": list(job.command),
            "links": dict(job.links),
            "environment": dict(job.environment),
            "limit": job.limit,
            "grace": job.grace,
            "output": job.output,
            "copy": job.copy,
            "seed": job.seed,
            "every": job.every,
            **queue,
        }

    def _begin(self, operation: str, ref: str, files: Mapping[str, bytes]) -> None:
        with tempfile.TemporaryFile() as payload:
            pack(files, payload)
            size = payload.tell()
            payload.seek(0)
            self._ask(operation, ref, str(size), payload=payload)

    def _ask(
        self, operation: str, ref: str, *rest: str, payload: BinaryIO | None = None
    ) -> dict[str, Any]:
        with tempfile.TemporaryFile() as out:
            self._call(operation, ref, *rest, payload=payload, out=out)
            out.seek(0)
            said = out.read()
        try:
            answer: dict[str, Any] = json.loads(said)
        except ValueError as error:
            shown = said[:80].decode(errors="replace")
            remedy = "see that its shell prints nothing when it starts"
            reason = f"{self.name} answered {shown!r}"
            raise RemoteError(reason, remedy=remedy) from error
        return answer

    def _call(
        self,
        operation: str,
        ref: str,
        *rest: str,
        payload: BinaryIO | None = None,
        out: BinaryIO,
    ) -> None:
        self.transport.run([operation, self._folder(ref), *rest], payload, out)

    def _folder(self, ref: str) -> str:
        return f"{self.root}/{ref}" if ref else self.root


def local(root: Path) -> HostBackend:
    """Jobs on this machine, below `root`. POSIX only."""
    if sys.platform == "win32":
        remedy = "use WSL, or another backend"
        raise ConfigurationError("the local backend needs POSIX", remedy=remedy)
    return HostBackend(Here(), str(root))


def _content(job: Job, name: str) -> bytes:
    content = job.files[name]
    return content.read_bytes() if isinstance(content, Path) else content


def _secret_file(secrets: Mapping[str, str]) -> dict[str, bytes]:
    return {"secrets.json": json.dumps(dict(secrets)).encode()} if secrets else {}


def packed(job: Job, told: dict[str, Any]) -> dict[str, bytes]:
    """The files of a job's folder; `told` is its job.json."""
    for name in (*job.files, *job.links):
        if name.startswith("/") or ".." in name.split("/"):
            remedy = "name it below the folder that the command is started in"
            raise UsageError(f"{name} is no place in a job's folder", remedy=remedy)
    found = {"runner.py": RUNNER.read_bytes(), "mirror.py": MIRROR.read_bytes()}
    found["job.json"] = json.dumps(told).encode()
    found |= {f"work/{name}": _content(job, name) for name in job.files}
    return found | _secret_file(job.secrets)


def pack(files: Mapping[str, bytes], out: BinaryIO) -> None:
    """Write files to `out` as a tar file."""
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def unpacked(stream: BinaryIO, target: Path) -> list[str]:
    """Put fetched files below `target`; RemoteError if one is not as it was sent."""
    digests, told = {}, None
    try:
        with tarfile.open(fileobj=stream) as archive:
            for member in archive:
                content = archive.extractfile(member)
                if content is None:
                    continue
                if member.name == "MANIFEST.json":
                    told = json.loads(content.read())
                    continue
                archive.extract(member, target, filter="data")
                with (target / member.name).open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256")
                digests[member.name] = digest.hexdigest()
    except tarfile.TarError as error:
        remedy = "fetch again"
        raise RemoteError(f"what came is broken: {error}", remedy=remedy) from error
    if told != digests:
        raise RemoteError("what came is not all that was sent", remedy="fetch again")
    return sorted(digests)


def as_status(said: dict[str, Any]) -> JobStatus:
    """What the runner says of a job, in the words of all backends."""
    raw, code = str(said["state"]), said.get("code")
    told: dict[str, Any] = {
        "started": said.get("started"),
        "seconds": said.get("seconds"),
    }
    told |= {"raw": raw, "log_size": said.get("log_size", 0)}
    if raw == "ended":
        state, reason = ended(code, said.get("reason"))
        return JobStatus(state, reason, code, **told)
    known = {
        "missing": (State.LOST, "its folder is gone"),
        "dead": (State.LOST, "its runner was killed, or its host restarted"),
        "claimed": (State.STARTING, "nobody runs it yet"),
        "starting": (State.STARTING, ""),
        "running": (State.RUNNING, ""),
        "stopping": (State.STOPPING, ""),
    }
    if raw == "slurm":
        told["raw"] = said["slurm"]
        known[raw] = IN_QUEUE.get(said["slurm"], (State.UNKNOWN, said["slurm"]))
    state, reason = known.get(raw, (State.UNKNOWN, f"the runner says {raw}"))
    return JobStatus(state, reason, **told)


def ended(code: int | None, why: str | None) -> tuple[State, str]:
    """State and reason of a script that ended with a code; `why`: stopped, limit."""
    said = REASONS.get(code or 0, f"exit code {code}" if code else "")
    if code == 0:
        return State.SUCCEEDED, said
    if why == "limit":
        return State.TIMEOUT, f"its time limit; {said}"
    if why == "stopped":
        return State.STOPPED, said
    return (State.PREEMPTED if code == RESUMABLE else State.FAILED), said
