"""The run directory: what a run leaves behind, written so that a crash cannot lie."""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import torch

from carl_runtime_min.errors import CarlError, UsageError

COMPLETE = "complete.json"


def plain(value: Any) -> Any:
    """`value` as strict JSON: NaN and infinities, which JSON lacks, become null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_json(path: Path, value: Any) -> None:
    """Replace `path` in one step: readers see the old file or the new, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with draft.open("w", encoding="utf-8", newline="\n") as file:
        json.dump(plain(value), file, indent=2, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def read_json(path: Path) -> Any:
    """The JSON value in `path`, or None if there is no such file."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(
            f"{path} is not JSON ({error})",
            remedy="it was not written by this script; use another --run-dir",
        ) from error


def complete_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints that were written to the end, oldest first."""
    found = [path.parent for path in folder.glob(f"checkpoint-*/{COMPLETE}")]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


class RunDir:
    """One run on disk. Only the process of rank 0 writes.

    Args:
        path: The directory; created when missing.
        phase: The phase that this process runs; records carry it.
        rank: The process index; every write of another rank than 0 is skipped.
        resume: "auto", "never" or the path of a checkpoint.
    """

    def __init__(self, path: Path, phase: str, rank: int, resume: str) -> None:
        self.path, self.phase, self.rank, self.resume = path, phase, rank, resume
        self.checkpoints = path / "checkpoints" / phase
        self.result = self.checkpoints / "model"

    def append(self, name: str, record: dict[str, Any]) -> None:
        """Add one line to `<name>.jsonl`."""
        if self.rank == 0:
            line = json.dumps(plain({"phase": self.phase, **record}), allow_nan=False)
            with (self.path / f"{name}.jsonl").open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def read(self, name: str) -> list[dict[str, Any]]:
        """All records of `<name>.jsonl`; a line torn by a crash is left out."""
        path, records = self.path / f"{name}.jsonl", []
        for line in path.read_bytes().splitlines() if path.is_file() else ():
            if line.endswith(b"}"):
                records.append(json.loads(line))
        return records

    def rewind(self, step: int) -> None:
        """Forget this phase's records after `step`: they are about to happen again."""
        for name in ("metrics", "samples") if self.rank == 0 else ():
            kept = [
                json.dumps(record)
                for record in self.read(name)
                if record["phase"] != self.phase or record["step"] <= step
            ]
            draft = self.path / f".{name}.jsonl"
            draft.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
            draft.replace(self.path / f"{name}.jsonl")

    def start(self) -> Path | None:
        """The checkpoint to continue from, or None to start afresh."""
        if self.resume not in ("auto", "never"):
            if not (Path(self.resume) / COMPLETE).is_file():
                raise UsageError(
                    f"--resume {self.resume}: not a complete checkpoint of this script",
                    remedy=f"choose one under {self.checkpoints}",
                )
            return Path(self.resume)
        found = complete_checkpoints(self.checkpoints)
        return found[-1] if found and self.resume == "auto" else None

    def summarise(self, **facts: Any) -> dict[str, Any]:
        """Merge `facts` into summary.json and return the whole."""
        summary: dict[str, Any] = read_json(self.path / "summary.json") or {}
        summary.update(facts)
        if self.rank == 0:
            write_json(self.path / "summary.json", summary)
        return summary


def file_sha256(path: Path) -> str:
    """Digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_sha256(folder: Path) -> str:
    """Digest of every tensor in `folder`: name, type, shape and bytes, in name order."""
    from safetensors import safe_open

    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in sorted(tensors.keys()):
                tensor = tensors.get_tensor(name).contiguous()
                digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
                digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def claim(path: Path, identity: dict[str, Any], resume: str) -> int:
    """Lock the run directory and check that it belongs to this very run.

    Args:
        path: The run directory; created when missing.
        identity: What must not change between start and resume.
        resume: As given on the command line.

    Returns:
        The file descriptor that holds the lock until every holder has ended.

    Raises:
        CarlError: Another process is using the directory.
        UsageError: The directory belongs to a different run.
    """
    import fcntl

    path.mkdir(parents=True, exist_ok=True)
    lock = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise CarlError(
            f"another process is running in {path}",
            remedy="wait for it, stop it, or give this run its own --run-dir",
            exit_code=2,
        ) from error
    recorded = read_json(path / "run.json")
    if recorded is None:
        return lock
    if resume == "never":
        raise UsageError(
            f"{path} already holds a run and --resume never was given",
            remedy="choose another --run-dir, or move that directory away",
        )
    changed = [key for key, now in identity.items() if recorded.get(key) != now]
    if changed:
        key = changed[0]
        raise UsageError(
            f"{path} was started with another {key.replace('_', ' ')}: "
            f"{recorded.get(key)} then, {identity[key]} now",
            remedy="give this run its own --run-dir, or run the script that started it",
        )
    return lock
