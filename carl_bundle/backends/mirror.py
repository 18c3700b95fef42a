"""The program that keeps a run alive elsewhere: what it has saved, copied to a folder.

    python3 mirror.py save RUN COPY       what is new in a run directory, to its copy
    python3 mirror.py restore COPY RUN    a copy, checked, to where a run goes on

It is sent to the host, as the runner is, and imports the standard library alone.
Folders of a run appear in one step and never change: checkpoints and models. A copy's
MANIFEST.json names the whole ones, with a digest of each file. Records grow: they are
copied before the manifest, so that they reach as far as its checkpoints.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

MANIFEST = "MANIFEST.json"
STATE = "trainer_state.json"  # the last file of a checkpoint
LOOSE = ("stop", ".lock", "exit.json")  # of one attempt, not of the run


def whole_folders(run: Path) -> list[Path]:
    """The checkpoints and models of a run that are complete."""
    saved = [path.parent for path in run.glob(f"checkpoints/*/checkpoint-*/{STATE}")]
    results = [run / "model", *run.glob("checkpoints/*/model")]
    return sorted(saved + [path for path in results if path.is_dir()])


def digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            found.update(chunk)
    return found.hexdigest()


def digests(folder: Path) -> dict[str, str]:
    """The digest of each file below a folder, by its path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): digest(path) for path in files}


def replace(path: Path, target: Path) -> None:
    """Copy a file, in one step, and onto the disk."""
    draft = target.with_name(f".{target.name}.draft")
    shutil.copyfile(path, draft)
    with draft.open("rb+") as file:
        os.fsync(file.fileno())
    draft.replace(target)


def read_manifest(copy: Path) -> dict[str, Any]:
    path = copy / MANIFEST
    return json.loads(path.read_text()) if path.exists() else {}


def save(run: Path, copy: Path) -> None:
    """Copy what is new; what the run has removed goes after all else is there."""
    copy.mkdir(parents=True, exist_ok=True)
    known, found = read_manifest(copy), {}
    for folder in whole_folders(run):
        name = folder.relative_to(run).as_posix()
        if name not in known:
            shutil.rmtree(copy / name, ignore_errors=True)
            try:
                shutil.copytree(folder, copy / name)
                known[name] = digests(folder)
            except (FileNotFoundError, shutil.Error):  # the run has just removed it
                shutil.rmtree(copy / name, ignore_errors=True)
                continue
            if digests(copy / name) != known[name]:
                raise OSError(f"{copy / name} is not what was copied there")
        found[name] = known[name]
    for path in run.iterdir() if run.is_dir() else ():
        if path.is_file() and path.name not in LOOSE and path.suffix != ".draft":
            replace(path, copy / path.name)
    if found != read_manifest(copy):
        draft = copy / f".{MANIFEST}.draft"
        draft.write_text(json.dumps(found, indent=2))
        draft.replace(copy / MANIFEST)
    for folder in copy.glob("checkpoints/*/*"):
        if folder.relative_to(copy).as_posix() not in found:
            shutil.rmtree(folder)


def restore(copy: Path, run: Path) -> None:
    """Put a copy where a run is to go on. OSError if it is damaged, or none."""
    known = read_manifest(copy)
    if not known:
        raise OSError(f"{copy} holds no checkpoint")
    for name, told in known.items():
        if digests(copy / name) != told:
            raise OSError(f"{copy / name} is not what was saved there")
        shutil.copytree(copy / name, run / name, dirs_exist_ok=True)
    for path in copy.iterdir():
        if path.is_file() and path.name != MANIFEST and path.suffix != ".draft":
            replace(path, run / path.name)


if __name__ == "__main__":
    task = {"save": save, "restore": restore}[sys.argv[1]]
    task(Path(sys.argv[2]).expanduser(), Path(sys.argv[3]).expanduser())
