"""Files and folders of this machine that a script names: they move into the pack."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from carl_bundle.errors import UsageError
from carl_bundle.jobs.submission import linked, local_paths
from carl_bundle.packing.sources import sources
from carl_bundle.spec.train_spec import TrainSpec


def local_files(config: dict[str, Any], frozen: TrainSpec) -> dict[str, Path]:
    """Where each lies in the pack, and where it lies now.

    Raises:
        UsageError: One is not here, is named by an absolute path, or lies outside of
            this folder, so that the script would not find it in the pack.
    """
    for one in sources(frozen):
        if one.source == "file" and not Path(one.id).is_file():
            raise UsageError(
                f"{one.id} is not on this machine",
                remedy="start the command in the folder that its path begins from",
            )
    paths = local_paths(config)
    for path in paths:
        if path.is_absolute():
            raise UsageError(
                f"{path} is an absolute path, which the target need not have",
                remedy="start the command in a folder above it and name it from there",
            )
    return {name: Path(path) for name, path in linked(paths).items()}


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def copy(path: Path, to: Path) -> None:
    """Copy a file or a folder; what links stand for, not the links."""
    to.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.copytree(path, to, dirs_exist_ok=True)
    else:
        shutil.copyfile(path, to)
