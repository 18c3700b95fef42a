"""Finding a model: a directory on this machine, or a repository on the hub."""

from __future__ import annotations

import re
from pathlib import Path

from carl_bundle.errors import UsageError
from carl_bundle.spec.model_files import ModelFiles, read_directory

SHA = re.compile(r"[0-9a-f]{40}")
"""A full commit id."""

_HUB_ID = re.compile(r"(?:[\w][\w.-]{0,95}/)?[\w][\w.-]{0,95}")


def is_hub_id(name: str) -> bool:
    """Whether a name can be a repository of the hub: `name` or `owner/name`."""
    return bool(_HUB_ID.fullmatch(name)) and ".." not in name and "--" not in name


def locate(id_or_dir: str, revision: str | None) -> ModelFiles:
    """Return the files of a model.

    A directory of that name wins over a repository, as it does in transformers.

    Raises:
        UsageError: There is neither.
        RemoteError: The hub does not answer.
    """
    directory = Path(id_or_dir).expanduser()
    if directory.is_dir():
        return read_directory(directory)
    if not is_hub_id(id_or_dir):
        raise UsageError(
            f"there is no directory {id_or_dir!r}, and it is no repository id either",
            remedy="check the path, or write owner/name of the hub",
        )
    from carl_bundle.spec.hub import read_repository

    return read_repository(id_or_dir, revision)
