"""The run directory: what a run leaves behind, written so that a crash cannot lie."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from carl_runtime_min.errors import UsageError
from carl_runtime_min.strict_json import json_value

COMPLETE = "complete.json"  # written last: what lies beside it is whole


def write_json(path: Path, value: Any) -> None:
    """Replace `path` in one step: readers see the old file or the new, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("w") as file:
            json.dump(json_value(value), file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """The JSON value in `path`, or None if there is no such file."""
    return json.loads(path.read_bytes()) if path.is_file() else None


def complete_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints that were written to the end, oldest first."""
    found = [mark.parent for mark in folder.glob(f"checkpoint-*/{COMPLETE}")]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


class RunDir:
    """The directory of one run, as one phase sees it. Only rank 0 writes."""

    def __init__(self, path: Path, phase: str, rank: int, resume: str) -> None:
        self.path, self.phase, self.rank, self.resume = path, phase, rank, resume
        self.checkpoints = path / "checkpoints" / phase

    def append(self, name: str, record: dict[str, Any]) -> None:
        """Add a line to `<name>.jsonl`."""
        if self.rank == 0:
            record = json_value({"phase": self.phase, **record})
            with (self.path / f"{name}.jsonl").open("a") as file:
                file.write(json.dumps(record) + "\n")

    def records(self, name: str) -> list[dict[str, Any]]:
        """The lines of `<name>.jsonl`; one that a crash tore is left out."""
        path = self.path / f"{name}.jsonl"
        lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
        return [json.loads(line) for line in lines]

    def rewind(self, step: int) -> None:
        """Forget what this phase did after `step`: it is about to happen again."""
        for folder in complete_checkpoints(self.checkpoints) if self.rank == 0 else ():
            if read_json(folder / COMPLETE)["step"] > step:
                (folder / COMPLETE).unlink()
        for folder in self.checkpoints.glob("checkpoint-*") if self.rank == 0 else ():
            if not (folder / COMPLETE).is_file():  # half written, or taken back
                shutil.rmtree(folder)
        for path in self.path.glob("*.jsonl") if self.rank == 0 else ():
            with path.with_suffix(".draft").open("w") as file:
                for record in self.records(path.stem):
                    if record["phase"] != self.phase or record["step"] <= step:
                        file.write(json.dumps(record) + "\n")
            path.with_suffix(".draft").replace(path)

    def start(self) -> Path | None:
        """The checkpoint to continue from, or None to start afresh."""
        last = next(reversed(complete_checkpoints(self.checkpoints)), None)
        chosen = Path(self.resume).resolve()
        if self.resume in ("auto", "never"):
            return last
        if not (chosen / COMPLETE).is_file():
            remedy = f"choose one under {self.checkpoints}"
            raise UsageError(f"{self.resume} is no complete checkpoint", remedy=remedy)
        return chosen if chosen.parent.name == self.phase else last

    def summarise(self, **facts: Any) -> None:
        """Add `facts` to summary.json."""
        if self.rank == 0:
            path = self.path / "summary.json"
            write_json(path, {**(read_json(path) or {}), **facts})


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_sha256(folder: Path) -> str:
    """Digest of all tensors in `folder`: name, type, shape and bytes, in name order."""
    from safetensors import safe_open

    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as tensors:
            for name in sorted(tensors.keys()):
                tensor = tensors.get_tensor(name).contiguous()
                digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
                digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def claim(path: Path, facts: dict[str, Any], resume: str) -> int:
    """Lock the run directory and check that it belongs to this very run.

    Returns the descriptor that holds the lock until the last process with it ends.
    `facts` are what must not change between start and resume, most telling first.
    """
    path.mkdir(parents=True, exist_ok=True)
    lock = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    remedy = "use --run-dir DIR"
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UsageError(f"a process is running in {path}", remedy=remedy) from error
    recorded = read_json(path / "run.json")
    if recorded and resume == "never":
        raise UsageError(f"{path} holds a run already", remedy=remedy)
    for key, now in facts.items() if recorded else ():
        if recorded.get(key) != now:
            then = f"{path} was started with {key} {recorded.get(key)}"
            raise UsageError(f"{then}, this run has {now}", remedy=remedy)
    return lock
