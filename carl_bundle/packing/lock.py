"""The lock of a script, and where the script comes from: two files beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from carl_bundle.bundler.provenance import Script
from carl_bundle.packing.resolve import build_of, resolve
from carl_bundle.packing.sources import sources
from carl_bundle.packing.target import GLIBC, Target
from carl_bundle.packing.wheel import Wheel
from carl_bundle.spec.train_spec import TrainSpec

HEAD = "# carl lock 1"
"""The first line of a lock; a file that begins otherwise is not ours."""


def lock_of(script: Path) -> Path:
    """Where the lock of a script lies; a script looks for it there, too."""
    return script.with_name(f"{script.name}.lock")


def provenance_of(script: Path) -> Path:
    return script.with_name(f"{script.name}.provenance.json")


def locked(text: str, target: Target) -> tuple[Target, list[Wheel]]:
    """The wheels for a script's text, and the target with the build of torch found.

    Raises as `resolve`.
    """
    wheels = resolve(Script.parse(text).dependencies, target)
    return target.built(target.build or build_of(wheels)), wheels


def lock_text(target: Target, wheels: Iterable[Wheel]) -> str:
    """Requirements with digests, as pip and uv pip read them; no index is named."""
    wheels = list(wheels)
    torch = [wheel.version for wheel in wheels if wheel.name == "torch"]
    lines = [HEAD, f"# target: {target}, glibc 2.{GLIBC} or later"]
    lines += [f"# torch: {one}, built for {build_of(wheels)}" for one in torch]
    lines += ["# pip install --no-deps --require-hashes -r THIS_FILE"]
    lines += [f"{one.name}=={one.version} --hash=sha256:{one.sha256}" for one in wheels]
    return "\n".join([*lines, ""])


def provenance(text: str, lock: str, target: Target, spec: TrainSpec) -> dict[str, Any]:
    """What a script was made from, and for which machines it is locked.

    It says nothing of this machine, its user or the time: equal inputs, equal bytes.
    """
    script = Script.parse(text)
    model = script.config["model"]
    return {
        "schema": "carl.provenance/1",
        "script_sha256": _sha256(text),
        "spec_sha256": script.spec_sha256,
        "generator": script.generator,
        "model": {"id": model["id"], "revision": model["options"]["revision"]},
        "data": [
            {"id": one.id, "revision": one.revision, "sha256": one.sha256}
            for one in sources(spec)
        ],
        "lock_sha256": _sha256(lock),
        "targets": [str(target)],
    }


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
