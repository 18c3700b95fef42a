"""One wheel that a script needs, as pip reports it before anything is downloaded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from email import message_from_bytes
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname
from zipfile import ZipFile

from carl_bundle.bundler.metadata import normalized
from carl_bundle.errors import UsageError

_CUDA = re.compile(r"(?:cuda-toolkit|nvidia-cuda-runtime(?:-cu\d+)?)(?:\[.*?\])?==")
_LONGEST_LICENCE = 80


@dataclass(frozen=True)
class Wheel:
    """A wheel.

    Attributes:
        name: The normalized name of the distribution.
        version: Its version, with the local part of a build such as +cpu.
        file: The name of the file.
        sha256: The digest of the file.
        url: Where pip would take it from; never written anywhere.
        requires: Its requirements, with their markers.
    """

    name: str
    version: str
    file: str
    sha256: str
    url: str
    requires: tuple[str, ...]

    @classmethod
    def of(cls, item: dict[str, Any]) -> Wheel:
        """One entry of pip's report. UsageError if it is no wheel with a digest."""
        metadata, found = item["metadata"], item["download_info"]
        name, version = normalized(metadata["name"]), str(metadata["version"])
        file = unquote(urlsplit(found["url"]).path).rpartition("/")[2]
        digest = found.get("archive_info", {}).get("hashes", {}).get("sha256")
        if not file.endswith(".whl") or not digest:
            raise UsageError(
                f"{name} {version} is no wheel with a digest: {file}",
                remedy="build it (pip wheel) and name its folder in PIP_FIND_LINKS",
            )
        requires = tuple(metadata.get("requires_dist", ()))
        return cls(name, version, file, digest, found["url"], requires)

    @property
    def build(self) -> str:
        """Of torch: what it was built for, such as cpu or cu130.

        The local part of its version says so, or else the CUDA that it requires.
        """
        if "+" in self.version:
            return self.version.partition("+")[2]
        for text in self.requires:
            if match := _CUDA.match(text):
                major, _, rest = text[match.end() :].partition(".")
                return f"cu{major}{rest[:1]}"
        return "cpu"

    @property
    def local_path(self) -> Path | None:
        """The file, if it lies on this machine."""
        parts = urlsplit(self.url)
        return Path(url2pathname(parts.path)) if parts.scheme == "file" else None


def licence_in(path: Path) -> str:
    """The licence of a wheel that lies here: the report of an older pip omits it."""
    with ZipFile(path) as wheel:
        names = (n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
        head = message_from_bytes(wheel.read(next(names)))
    return licence_of(
        {
            "license_expression": head["License-Expression"],
            "classifier": head.get_all("Classifier", []),
            "license": head["License"],
        }
    )


def licence_of(metadata: dict[str, Any]) -> str:
    """What metadata name as licence: an SPDX expression where there is one."""
    if expression := metadata.get("license_expression"):
        return str(expression)
    lists = [one.split(" :: ") for one in metadata.get("classifier", ())]
    named = [one[-1] for one in lists if one[0] == "License" and len(one) > 2]
    if named:
        return " OR ".join(named)
    text = str(metadata.get("license") or "").strip()
    short = text and "\n" not in text and len(text) <= _LONGEST_LICENCE
    return text if short else "unknown"
