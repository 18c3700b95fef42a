"""What travels with a script, and what must not."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from carl_bundle.errors import UsageError
from carl_bundle.spec.phases import KINDS
from carl_runtime_min.run import data_of

KNOWN_SECRETS = ("HF_TOKEN", "WANDB_API_KEY", "COMET_API_KEY", "MLFLOW_TRACKING_TOKEN")
"""Variables that are taken for secrets wherever they are set."""

TOKENS = re.compile(
    r"\b(hf_[A-Za-z0-9]{30,}|rpa_[A-Z0-9]{30,}|tml-[A-Za-z0-9]{20,}"
    r"|sk-[A-Za-z0-9_-]{20,}|AKIA[A-Z0-9]{16}|gh[pousr]_[A-Za-z0-9]{30,})"
)
LARGEST = 256 << 20
"""Bytes of local files that are sent along."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def local_paths(config: Mapping[str, Any]) -> list[Path]:
    """The files and folders of this machine that a script names, as it names them."""
    phases = [name for name in config if name in (*KINDS, "eval")]
    named = [one["id"] for one in data_of(dict(config), phases)]
    named += [config["model"]["id"], config["model"]["tokenizer"]]
    return [Path(name) for name in dict.fromkeys(named) if Path(name).exists()]


def linked(paths: Iterable[Path]) -> dict[str, str]:
    """Links by which a script finds relative paths in another folder of this machine.

    Raises:
        UsageError: One leads out of the folder that the command was started in.
    """
    relative = [path for path in paths if not path.is_absolute()]
    return {_inside(path): str(path.resolve()) for path in relative}


def sent(paths: Iterable[Path]) -> dict[str, Path]:
    """The files at relative paths, to be sent along; absolute ones are the host's.

    Raises:
        UsageError: One leads out of this folder, or they are too large.
    """
    found: dict[str, Path] = {}
    for path in (path for path in paths if not path.is_absolute()):
        name = _inside(path)
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in filter(Path.is_file, files):
            found[str(PurePosixPath(name, *file.relative_to(path).parts))] = file
    size = sum(path.stat().st_size for path in found.values())
    if size > LARGEST:
        raise UsageError(
            f"{size >> 20} MiB of local files would be sent along",
            remedy="copy them there and name them by absolute paths, or use the hub",
        )
    return found


def _inside(path: Path) -> str:
    name = os.path.normpath(path)
    if name.startswith(".."):
        raise UsageError(
            f"{path} lies outside of this folder",
            remedy="start the command in a folder above it, or name an absolute path",
        )
    return name.replace(os.sep, "/")


def secrets_of(names: Iterable[str]) -> dict[str, str]:
    """The values of secrets: those named, and those that are always taken for one.

    Raises:
        UsageError: One that was named is not set.
    """
    wanted = list(names)
    for name in wanted:
        if not os.environ.get(name):
            remedy = f"export {name}=..., or leave it out"
            raise UsageError(f"the secret {name} is not set", remedy=remedy)
    found = {name: os.environ.get(name, "") for name in (*wanted, *KNOWN_SECRETS)}
    return {name: value for name, value in found.items() if value}


def check_no_secret(text: str, secrets: Mapping[str, str]) -> None:
    """Raise UsageError if a script holds a secret, or what looks like a token."""
    for number, line in enumerate(text.splitlines(), 1):
        named = [name for name, value in secrets.items() if value in line]
        if named or TOKENS.search(line):
            what = named[0] if named else "what looks like a token"
            raise UsageError(
                f"line {number} of the script holds {what}",
                remedy="take it out of the spec: secrets come from the environment",
            )


def seconds(text: str) -> float:
    """A time such as 90s, 30m, 2h or 1d. UsageError if it is none."""
    number, unit = text[:-1], text[-1:]
    if unit not in _UNITS or not re.fullmatch(r"\d+(\.\d+)?", number):
        raise UsageError(f"{text!r} is no time", remedy="write it as 30m, 2h or 1d")
    return float(number) * _UNITS[unit]
