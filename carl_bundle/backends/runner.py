"""The program that runs one job on its host: start, watch, status, log, stop, fetch.

It is sent to the host, which needs nothing but POSIX and Python 3.8: it imports the
standard library alone. A job is a folder, and its files are the truth about it:

    job.json      what to run: command, environment, links to what lies on the host,
                  limit and grace in seconds, the folder of what it makes, where that
                  is copied to, and a copy that it goes on from
    work/         where it runs: the script and its data
    lock          held as long as somebody watches the job
    pid.json      its process, when that began, on which host; the script has begun
    stop          somebody asked it to end
    output.log    what it printed, without the values of secrets
    exit.json     code and reason; the last file of an attempt
    slurm.json    its id there, if Slurm is to start it: the runner is then the batch
                  script, and what Slurm says counts until there is an exit.json
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import io
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO

RESUMABLE, TIME_LIMIT = 85, 124
NOTICE = 90  # seconds before its limit that Slurm tells a job
MASK = b"***"
POLL = 0.2  # seconds
ROOM = 4096  # bytes kept for exit.json, should the disk be full by then
END_WITH_PARENT, ADOPT_ORPHANS = 1, 36  # prctl, Linux


def read_json(path: Path) -> Any:
    """What a JSON file holds, None without that file."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None


def write_json(path: Path, value: Any) -> None:
    """Replace a file in one step."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.draft")
    with draft.open("w") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def start(folder: Path, stream: BinaryIO, size: int) -> dict[str, Any]:
    """Unpack a job, unless it is there, and have it watched; its status.

    `stream` gives a tar file of `size` bytes. To do it again does no harm: the folder
    appears in one step, and only one watcher gets the lock.
    """
    if not folder.is_dir():
        folder.parent.mkdir(0o700, parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            unpack(stream, size, draft)
            with contextlib.suppress(OSError):  # somebody else was first
                draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return begin(folder)


def begin(folder: Path) -> dict[str, Any]:
    """Have a job that lies there watched, or queued; its status."""
    options = read_json(folder / "job.json").get("sbatch")
    return watched(folder) if options is None else queued(folder, options)


def restart(folder: Path, stream: BinaryIO, size: int) -> dict[str, Any]:
    """Run a job that has ended once more, in its own folder; its status."""
    lock = acquire(folder) if folder.is_dir() else None
    if lock is None:
        return status(folder)
    unpack(stream, size, folder)
    put_aside(folder, "stop", "slurm.json", "pid.json", "exit.json")
    os.close(lock)
    return begin(folder)


def put_aside(folder: Path, *names: str, ended: Any = None) -> None:
    """Make room for another attempt: these files go, and of this one a line stays."""
    ended = ended or read_json(folder / "exit.json") or {"reason": "lost"}
    with (folder / "attempts.jsonl").open("a") as file:
        file.write(json.dumps(ended) + "\n")
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            (folder / name).unlink()


def unpack(stream: BinaryIO, size: int, folder: Path) -> None:
    """Put the files of a tar file of `size` bytes into a folder.

    ValueError if it came cut, or holds anything but files.
    """
    with tempfile.TemporaryFile(dir=folder) as data:
        shutil.copyfileobj(stream, data)
        if data.tell() != size:
            raise ValueError(f"{data.tell()} of {size} bytes came")
        data.seek(0)
        with tarfile.open(fileobj=data) as archive:
            for member in archive:
                put(folder, member.name, archive.extractfile(member))


def put(folder: Path, name: str, content: Any) -> None:
    """Write one file of a job; the one with secrets is for its owner alone."""
    root, target = folder.resolve(), (folder / name).resolve()
    if root not in target.parents or content is None:
        raise ValueError(f"{name} is no file of a job")
    target.parent.mkdir(0o700, parents=True, exist_ok=True)
    how = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    mode = 0o600 if name == "secrets.json" else 0o644
    with os.fdopen(os.open(target, how, mode), "wb") as file:
        shutil.copyfileobj(content, file)


def watched(folder: Path) -> dict[str, Any]:
    """Start a watcher that outlives this process; the status once it has begun."""
    with (folder / "runner.log").open("ab") as log:
        subprocess.Popen(
            [sys.executable, str(folder / "runner.py"), "watch", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    for _ in range(100):
        if status(folder)["state"] not in ("claimed", "starting"):
            break
        time.sleep(POLL / 4)
    return status(folder)


def queued(folder: Path, options: list[str]) -> dict[str, Any]:
    """Hand a job to Slurm, unless it was; the status. OSError if Slurm refuses it."""
    lock = os.open(folder / "submit.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    comment, told = f"carl:{folder}", folder / "slurm.json"
    if not told.exists():
        listed = slurm("squeue", "--noheader", "--states=all", "--format=%i|%k|%T")
        rows = [line.split("|") for line in listed.splitlines()]
        ended = ("CANCELLED", "COMPLETED", "FAILED", "TIMEOUT", "NODE_FAIL")
        known = [i for i, said, state in rows if said == comment and state not in ended]
        script = folder / "job.sbatch"
        program = [sys.executable, str(folder / "runner.py"), "watch", str(folder)]
        script.write_text(f"#!/bin/sh\nexec {shlex.join(program)}\n")
        own = [f"--comment={comment}", f"--job-name=carl-{folder.name}"]
        own += [f"--output={folder / 'runner.log'}", "--open-mode=append", "--requeue"]
        own += ["--parsable", "--export=NONE", f"--signal=B:USR1@{NOTICE}"]
        job = known[0] if known else slurm("sbatch", *own, *options, str(script))
        write_json(told, {"id": job.split(";")[0].strip()})
    os.close(lock)
    return status(folder)


def slurm(*command: str) -> str:
    """What a command of Slurm prints; OSError with its message if it fails."""
    done = subprocess.run(command, capture_output=True)
    if done.returncode:
        raise OSError(f"{command[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode()


def in_queue(folder: Path) -> str:
    """What Slurm says of a job, "" once it has forgotten it."""
    job = read_json(folder / "slurm.json")["id"]
    try:
        said = slurm("squeue", "--noheader", "--states=all", "--format=%T", f"-j{job}")
    except OSError as error:
        if "Invalid job id" not in str(error):
            raise
        return ""
    return said.strip()


def acquire(folder: Path) -> int | None:
    """The lock of a job, to be closed; None if somebody has it."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def watch(folder: Path) -> None:
    """Run the script of a job to its end, if nobody does or did."""
    for _ in range(20):  # who asks after the job holds its lock for a moment, too
        if (lock := acquire(folder)) is not None:
            break
        time.sleep(POLL / 4)
    else:
        return
    attempts = folder / "attempts.jsonl"
    before = len(attempts.read_text().splitlines()) if attempts.exists() else 0
    if (folder / "pid.json").exists():
        if int(os.environ.get("SLURM_RESTART_COUNT", "0")) <= before:
            return
        put_aside(folder, "pid.json", "exit.json")  # Slurm began it anew
    prctl(ADOPT_ORPHANS, 1)
    room = folder / "exit.json.draft"
    room.write_text(" " * ROOM)
    one = Watch(folder, read_json(folder / "job.json"))
    ended = one.run()
    if one.noticed == signal.SIGUSR1 and ended["code"] == RESUMABLE:
        room.unlink()  # it goes on, in the queue, where a stop may still take it out
        put_aside(folder, "pid.json", ended=ended)
        slurm("scontrol", "requeue", os.environ["SLURM_JOB_ID"])
        time.sleep(60)
    with room.open("r+") as file:
        file.write(json.dumps(ended))
        file.truncate()
        file.flush()
        os.fsync(file.fileno())
    room.replace(folder / "exit.json")
    os.close(lock)


class Watch:
    """One run of a script, from its first process to its last."""

    def __init__(self, folder: Path, job: dict[str, Any]) -> None:
        self.folder, self.job, self.begun = folder, job, time.monotonic()
        self.secrets = read_json(folder / "secrets.json") or {}
        with contextlib.suppress(FileNotFoundError):
            (folder / "secrets.json").unlink()
        self.noticed = 0  # the signal by which Slurm tells that its time is over
        for number in (signal.SIGUSR1, signal.SIGTERM):
            signal.signal(number, self.notice)

    def notice(self, number: int, frame: Any) -> None:
        self.noticed = self.noticed or number

    def run(self) -> dict[str, Any]:
        """What exit.json is to say."""
        work = self.folder / "work"
        work.mkdir(exist_ok=True)
        for name, path in self.job["links"].items():
            link = work / name
            link.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                link.symlink_to(path)
        seed, output = self.job.get("seed"), work / self.job["output"]
        if seed and not output.exists() and not self.mirror("restore", seed, output):
            shutil.rmtree(output, ignore_errors=True)
            return {"code": 4, "reason": "not started", "started": 0, "seconds": 0}
        started, code = time.time(), 127
        reason: str | None = "not started"
        try:
            child = subprocess.Popen(
                self.job["command"],
                cwd=work,
                env={**os.environ, **self.job["environment"], **self.secrets},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: prctl(END_WITH_PARENT, signal.SIGTERM),
            )
        except OSError as error:
            self.log(f"error: the job cannot be started: {error}\n".encode())
        else:
            told = {"pid": child.pid, "begun": begun(child.pid), "started": started}
            write_json(self.folder / "pid.json", {**told, "host": socket.gethostname()})
            code, reason = self.follow(child)
        seconds = time.monotonic() - self.begun
        return {"code": code, "reason": reason, "started": started, "seconds": seconds}

    def follow(self, child: subprocess.Popen[bytes]) -> tuple[int, str | None]:
        """The exit code of a process, and why it ended, None if by itself."""
        copier = threading.Thread(target=self.copy, args=(child.stdout,), daemon=True)
        copier.start()
        over = threading.Event()
        saver = threading.Thread(target=self.keep_saving, args=(over,), daemon=True)
        saver.start()
        reason = self.wait(child)
        over.set()
        saver.join()
        finish(child.pid)
        copier.join(10)
        self.save()
        code = child.returncode
        if reason == "limit" and code != 0:
            return TIME_LIMIT, reason
        return (128 - code if code < 0 else code), reason  # as a shell tells signals

    def wait(self, child: subprocess.Popen[bytes]) -> str | None:
        """Wait for the end, or bring it about; why it came, None if by itself."""
        reason, since = None, 0.0
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(POLL)
                return reason
            asked, now = read_json(self.folder / "stop"), time.monotonic()
            limit = self.job["limit"]
            over = limit and now - self.begun > limit
            if asked is None and not over and not self.noticed:
                continue
            if reason is None:
                reason = "stopped" if asked else "limit" if over else "preempted"
                since = now
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGTERM)
            elif now - since > (asked or self.job)["grace"]:
                finish(child.pid)

    def copy(self, output: Any) -> None:
        """Append what the job prints to its log, with secrets masked.

        The end of what was read waits for the rest: a value may be cut there.
        """
        values = [value.encode() for value in self.secrets.values() if value]
        longest, held = max(map(len, values), default=1), b""
        while True:
            chunk = os.read(output.fileno(), 65536)
            held += chunk
            for value in values:
                held = held.replace(value, MASK)
            keep = longest - 1 if chunk and not held.endswith(b"\n") else 0
            ready = held[: max(0, len(held) - keep)]
            held = held[len(ready) :]
            self.log(ready)
            if not chunk:
                return

    def keep_saving(self, over: threading.Event) -> None:
        """Copy what the job saves to where it outlives this host."""
        while not over.wait(self.job.get("every", 10)):
            self.save()

    def save(self) -> None:
        run, copy = self.folder / "work" / self.job["output"], self.job.get("copy")
        if copy and run.exists():
            self.mirror("save", run, copy)

    def mirror(self, task: str, source: Any, target: Any) -> bool:
        """Save or restore; what goes wrong stands in the log."""
        program = self.folder / "mirror.py"
        command = [sys.executable, str(program), task, str(source), str(target)]
        done = subprocess.run(command, stderr=subprocess.PIPE)
        if done.returncode:
            told = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            self.log(f"error: cannot {task} a copy: {' '.join(told)}\n".encode())
        return done.returncode == 0

    def log(self, text: bytes) -> None:
        path = self.folder / "output.log"
        with contextlib.suppress(OSError), path.open("ab", 0) as file:
            file.write(text)  # not on a full disk: the job matters more


def prctl(option: int, value: int) -> None:
    """Set a property of this process, where there is Linux."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def finish(group: int) -> None:
    """Kill a process group, and all that this process has become the parent of."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
    for pid in descendants(os.getpid()):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name; none where it is missing."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def begun(pid: int) -> int | None:
    """When a process began, by its host's own count; None if it is gone, a zombie."""
    fields = stat(pid)
    return int(fields[19]) if fields and fields[0] != "Z" else None


def descendants(pid: int) -> list[int]:
    """The processes that come from one."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        fields = stat(int(path.name))
        if fields:
            children.setdefault(int(fields[1]), []).append(int(path.name))
    found: list[int] = []
    todo = [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def status(folder: Path) -> dict[str, Any]:
    """What the files of a job say of it.

    state: missing, claimed (nobody runs it), starting, running, stopping, ended, dead
    (nobody watches it, its script is gone, and how it ended nobody knows).
    """
    if not folder.is_dir():
        return {"state": "missing"}
    lock = acquire(folder)
    if lock is not None:
        os.close(lock)
    ended, pid = read_json(folder / "exit.json"), read_json(folder / "pid.json")
    log, alive = folder / "output.log", False
    found: dict[str, Any] = {"log_size": log.stat().st_size if log.exists() else 0}
    if pid:
        found.update(started=pid["started"], host=pid["host"])
        found["seconds"] = max(0.0, time.time() - pid["started"])
        alive = pid["begun"] is not None and begun(pid["pid"]) == pid["begun"]
    if ended is not None:
        return {**found, "state": "ended", **ended}
    if (folder / "slurm.json").exists():
        return {**found, "state": "slurm", "slurm": in_queue(folder)}
    if lock is not None and not alive:
        return {**found, "state": "dead" if pid else "claimed"}
    if lock is not None or (folder / "stop").exists():
        return {**found, "state": "stopping"}
    return {**found, "state": "running" if pid else "starting"}


def stop(folder: Path, grace: float) -> dict[str, Any]:
    """Ask a job to end: by SIGTERM, and `grace` seconds later by force. Its status."""
    if folder.is_dir() and not (folder / "exit.json").exists():
        write_json(folder / "stop", {"grace": grace})
        waits = (folder / "slurm.json").exists() and not (folder / "pid.json").exists()
        if waits:
            slurm("scancel", read_json(folder / "slurm.json")["id"])
    return status(folder)


def read(folder: Path, offset: int, count: int, out: BinaryIO) -> None:
    """Write up to `count` bytes of the log, from `offset` on, to `out`."""
    path = folder / "output.log"
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        file.seek(offset)
        out.write(file.read(count))


class Hashed:
    """A file that is digested while it is read."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def read(self, count: int) -> bytes:
        chunk = self.file.read(count)
        self.digest.update(chunk)
        return chunk


def fetch(folder: Path, out: BinaryIO) -> None:
    """Write what the job made to `out`: a tar file that ends with its MANIFEST.json."""
    work, digests = folder / "work", {}
    output = read_json(folder / "job.json")["output"]
    with tarfile.open(fileobj=out, mode="w|") as archive:
        for path in sorted((work / output).rglob("*")):
            if path.is_symlink() or not path.is_file():
                continue
            name = str(path.relative_to(work))
            with path.open("rb") as file:
                content: Any = Hashed(file)
                archive.addfile(archive.gettarinfo(str(path), name), content)
            digests[name] = content.digest.hexdigest()
        text = json.dumps(digests).encode()
        member = tarfile.TarInfo("MANIFEST.json")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))


def jobs(root: Path) -> dict[str, Any]:
    """The status of every job below a folder, by name."""
    folders = sorted(root.glob("[!.]*")) if root.is_dir() else []
    return {folder.name: status(folder) for folder in folders if folder.is_dir()}


def probe(folder: Path) -> dict[str, Any]:
    """What this host has of what jobs need; `sandbox`: why there is none."""
    place = next(one for one in (folder, *folder.parents) if one.exists())
    asked = {
        "gpus": "nvidia-smi -L",
        "sandbox": "bwrap --unshare-all --unshare-user --disable-userns "
        "--ro-bind / / --proc /proc true",
        "queue": "scontrol ping",
    }
    answers = {}
    for name, command in asked.items():
        try:
            answers[name] = slurm("timeout", "20", *command.split())
        except OSError as error:
            answers[name] = str(error)
    gpus = answers["gpus"].splitlines()
    names = ("uv", "sbatch", "squeue", "scancel", "scontrol")
    return {
        "name": socket.gethostname(),
        "python": sys.version.split()[0],
        "time": time.time(),
        "folder": str(folder),
        "writable": os.access(place, os.W_OK),
        "free": shutil.disk_usage(place).free,
        "tools": {name: shutil.which(name) for name in names},
        "gpus": [line.split(" (")[0] for line in gpus if line.startswith("GPU ")],
        "sandbox": answers["sandbox"] or None,
        "queue": answers["queue"].strip(),
    }


def operate(
    operation: str,
    place: str,
    arguments: tuple[Any, ...],
    stream: BinaryIO,
    out: BinaryIO,
) -> None:
    """Do what a client asks; answers are JSON, but for the log and fetched files."""
    folder = Path(place).expanduser()
    if operation == "read":
        return read(folder, int(arguments[0]), int(arguments[1]), out)
    if operation == "fetch":
        return fetch(folder, out)
    answers = {
        "start": lambda: start(folder, stream, int(arguments[0])),
        "restart": lambda: restart(folder, stream, int(arguments[0])),
        "status": lambda: status(folder),
        "stop": lambda: stop(folder, float(arguments[0])),
        "list": lambda: jobs(folder),
        "probe": lambda: probe(folder),
    }
    out.write(json.dumps(answers[operation]()).encode())
    return None


if __name__ == "__main__":
    if sys.argv[1] == "watch":
        watch(Path(sys.argv[2]))
    else:
        name, place, *rest = sys.argv[1:]
        operate(name, place, tuple(rest), sys.stdin.buffer, sys.stdout.buffer)
