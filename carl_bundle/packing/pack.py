"""A folder with all that a script needs on a machine without network."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carl_bundle.bundler.provenance import Script
from carl_bundle.errors import ConfigurationError, UsageError
from carl_bundle.packing import pip, shell
from carl_bundle.packing.estimate import shown, wheel_sizes
from carl_bundle.packing.local import copy, local_files, size
from carl_bundle.packing.lock import (
    lock_of,
    lock_text,
    locked,
    provenance,
    provenance_of,
)
from carl_bundle.packing.manifest import write_manifest
from carl_bundle.packing.snapshots import HUB, Snapshot, snapshots
from carl_bundle.packing.target import Target
from carl_bundle.packing.wheel import Wheel, licence_in
from carl_bundle.recipes.sharding import accelerate_text
from carl_bundle.spec.train_spec import TrainSpec

_TAKEN = {
    HUB,
    shell.WHEELS,
    *shell.MADE,
    "train.py",
    "run.sh",
    "verify.sh",
    "job.sbatch",
}


@dataclass(frozen=True)
class Pack:
    """What will be packed; nothing of it has been downloaded.

    Attributes:
        text: The script.
        spec: What it was rendered from, frozen.
        target: Where it will run, with the build of torch.
        wheels: What it needs there.
        wheel_bytes: Sizes of their files; None where the index does not tell.
        snapshots: Repositories of the hub, with the sizes of their files.
        local: Files and folders of this machine, by their place in the pack.
    """

    text: str
    spec: TrainSpec
    target: Target
    wheels: list[Wheel]
    wheel_bytes: dict[str, int | None]
    snapshots: dict[Snapshot, dict[str, int]]
    local: dict[str, Path]

    @property
    def bytes(self) -> int:
        """How much it will take, as far as that is known."""
        found = [size or 0 for size in self.wheel_bytes.values()]
        found += [sum(sizes.values()) for sizes in self.snapshots.values()]
        return sum(found) + sum(map(size, self.local.values()))

    @property
    def unknown(self) -> int:
        """Wheels whose size no index tells."""
        return sum(size is None for size in self.wheel_bytes.values())


def prepare(text: str, spec: TrainSpec, target: Target) -> Pack:
    """Find out what a script needs.

    Raises:
        UsageError: A part of it is not pinned, or the script would not find it.
        ConfigurationError: There are no such wheels.
        RemoteError: The package index or the hub does not answer.
    """
    if spec.push.enabled:
        raise UsageError(
            "a run without network cannot push its result",
            remedy="leave `push` out, and push the model where there is network",
        )
    hub, local = snapshots(spec), local_files(Script.parse(text).config, spec)
    _check_places(hub, local)
    found, wheels = locked(text, target)
    sizes = {one: one.sizes() for one in hub}
    return Pack(text, spec, found, wheels, wheel_sizes(wheels), sizes, local)


def write(pack: Pack, folder: Path, tell: Callable[[str], None]) -> None:
    """Download everything, and make the folder in one step.

    Raises:
        UsageError: There is something in that folder.
        ConfigurationError: The disk is too small.
        RemoteError: The package index or the hub does not answer.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not empty", remedy="name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if free < pack.bytes:
        raise ConfigurationError(
            f"{folder} needs {shown(pack.bytes)}, and {shown(free)} are free",
            remedy="free some space, or name a folder on another disk",
        )
    draft = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        draft.mkdir()
        _fill(pack, draft, tell)
        draft.replace(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _fill(pack: Pack, folder: Path, tell: Callable[[str], None]) -> None:
    script, target = folder / "train.py", pack.target
    lock, spec = lock_of(script), pack.spec
    script.write_text(pack.text, encoding="utf-8")
    lock.write_text(lock_text(target, pack.wheels), encoding="utf-8")
    origin = provenance(pack.text, lock.read_text("utf-8"), target, spec)
    _write_json(provenance_of(script), origin)
    tell(f"{len(pack.wheels)} wheels")
    pip.download(lock, target, folder / shell.WHEELS)
    for one, sizes in pack.snapshots.items():
        tell(f"the {one.kind} {one.repo}")
        one.download(folder, list(sizes))
    for name, path in pack.local.items():
        copy(path, folder / name)
    if spec.method != "pipeline":
        launch = script.with_suffix(".accelerate.yaml")
        launch.write_text(accelerate_text(spec), encoding="utf-8")
    made = [spec.run_dir] if not Path(spec.run_dir).is_absolute() else []
    (folder / shell.ENVIRONMENT).write_text(shell.environment(), encoding="utf-8")
    _write_program(folder / "run.sh", shell.run_sh(target))
    _write_program(folder / "job.sbatch", shell.job_sbatch())
    _write_program(folder / "verify.sh", shell.verify_sh(target, made))
    write_manifest(folder, _parts(pack, folder))


def _parts(pack: Pack, folder: Path) -> dict[str, Any]:
    """What is in a pack, part by part; where pip took it from is left out."""
    return {
        "target": str(pack.target),
        "provenance": "train.py.provenance.json",
        "wheels": [
            {
                "name": one.name,
                "version": one.version,
                "path": f"{shell.WHEELS}/{one.file}",
                "licence": licence_in(folder / shell.WHEELS / one.file),
            }
            for one in pack.wheels
        ],
        "snapshots": [
            {
                "kind": one.kind,
                "id": one.repo,
                "revision": one.revision,
                "path": one.folder,
                "licence": one.licence(folder),
            }
            for one in pack.snapshots
        ],
        "local": sorted(pack.local),
    }


def _check_places(hub: list[Snapshot], local: dict[str, Path]) -> None:
    """Raise UsageError if two parts would lie, or be looked for, in one place."""
    models = {one.repo for one in hub if one.kind == "model"}
    data = [one.repo for one in hub if one.kind == "dataset"]
    for name in (*data, *local):
        twice = data.count(name) > 1 or name in models
        if twice or name.partition("/")[0] in _TAKEN:
            raise UsageError(
                f"{name} cannot be told from another part of the pack",
                remedy="copy its rows to a file of another name, and name that",
            )


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _write_program(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
