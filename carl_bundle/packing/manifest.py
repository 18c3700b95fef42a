"""What a pack holds: every file with size and digest, every part with its licence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from carl_bundle.errors import UsageError
from carl_bundle.packing.shell import MANIFEST, SUMS
from carl_runtime_min.run import sha256


def write_manifest(pack: Path, parts: dict[str, Any]) -> None:
    """Write MANIFEST.json, and SHA256SUMS of it and of all other files.

    UsageError: a file has a name that `sha256sum` writes in another way.
    """
    files = [_entry(pack, path) for path in _files(pack)]
    total = sum(one["bytes"] for one in files)
    document = {"schema": "carl.pack/1", **parts, "bytes": total, "files": files}
    manifest = pack / MANIFEST
    manifest.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    files.append(_entry(pack, manifest))
    lines = [f"{one['sha256']}  {one['path']}\n" for one in files]
    (pack / SUMS).write_text("".join(lines), encoding="utf-8")


def _files(pack: Path) -> list[Path]:
    return sorted(path for path in pack.rglob("*") if not path.is_dir())


def _entry(pack: Path, path: Path) -> dict[str, Any]:
    name = path.relative_to(pack).as_posix()
    if not name.isprintable() or "\\" in name:
        raise UsageError(f"the name of {name!r} cannot be checked", remedy="rename it")
    return {"path": name, "bytes": path.stat().st_size, "sha256": sha256(path)}
