"""The small files that describe a model, from a directory or from the hub."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from carl_bundle.errors import UsageError

NAMES = (
    "config.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "model.safetensors.index.json",
)
"""Every file that ModelSpec reads; only the first must exist."""

MAX_BYTES = 16 * 1_048_576
"""Longest file that is read, in bytes; config.json may have a sixteenth of it."""


@dataclass(frozen=True)
class ModelFiles:
    """The files of one model at one revision.

    Attributes:
        source: The directory or hub id, for messages.
        content: Bytes of each file that exists, by name.
        commit: The commit they were read at; None for a directory.
        directory: The directory, where there is one.
        weight_bytes: Size of `*.safetensors` in all; None where none is at hand.
    """

    source: str
    content: dict[str, bytes] = field(repr=False)
    commit: str | None = None
    directory: Path | None = None
    weight_bytes: int | None = None

    def with_tokenizer_of(self, other: ModelFiles) -> ModelFiles:
        """Return these files with the tokenizer's taken from another place."""
        names = ("tokenizer_config.json", "chat_template.jinja", "chat_template.json")
        kept = {n: raw for n, raw in self.content.items() if n not in names}
        taken = {n: raw for n, raw in other.content.items() if n in names}
        return replace(self, content={**kept, **taken})

    def with_template(self, text: str) -> ModelFiles:
        """Return these files with another chat template."""
        own = {"chat_template.jinja": text.encode()}
        return replace(self, content={**self.content, **own})

    def json(self, name: str) -> dict[str, Any] | None:
        """Return a file as a JSON object, or None where it does not exist.

        Raises:
            UsageError: It is no JSON object, too long, or has a duplicate key.
        """
        raw = self.content.get(name)
        return None if raw is None else _parse(raw, f"{self.source}: {name}")

    def digest(self, name: str) -> str | None:
        """Return the SHA-256 of a file's bytes, or None where it does not exist."""
        raw = self.content.get(name)
        return None if raw is None else hashlib.sha256(raw).hexdigest()


def read_directory(directory: Path) -> ModelFiles:
    """Read the files of a local model.

    Raises:
        UsageError: There is no config.json, or a file cannot be read.
    """
    content: dict[str, bytes] = {}
    for name in NAMES:
        path = directory / name
        if not path.is_file():
            continue
        limit = MAX_BYTES // 16 if name == "config.json" else MAX_BYTES
        try:
            if path.stat().st_size > limit:
                raise UsageError(
                    f"{path} is larger than {limit} bytes",
                    remedy="this is not the file that transformers writes; replace it",
                )
            content[name] = path.read_bytes()
        except OSError as error:
            raise UsageError(
                f"cannot read {path}: {error.strerror}", remedy="check its permissions"
            ) from error
    if "config.json" not in content:
        raise UsageError(
            f"{directory} holds no config.json",
            remedy="name the directory that save_pretrained wrote, or a hub id",
        )
    weights = [path.stat().st_size for path in directory.glob("*.safetensors")]
    return ModelFiles(
        str(directory), content, None, directory, sum(weights) if weights else None
    )


def _parse(raw: bytes, where: str) -> dict[str, Any]:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(items)
        if len(result) < len(items):
            names = [name for name, _ in items]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"the key {twice!r} stands there twice")
        return result

    def constant(name: str) -> NoReturn:
        raise ValueError(f"holds {name}, which is no JSON")

    try:
        value = json.loads(raw, object_pairs_hook=pairs, parse_constant=constant)
    except RecursionError as error:
        raise UsageError(
            f"{where} is nested too deeply", remedy="replace the file"
        ) from error
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError among them
        raise UsageError(
            f"{where}: {error}", remedy="replace the file by a valid one"
        ) from error
    if not isinstance(value, dict):
        raise UsageError(
            f"{where} holds {type(value).__name__}, not an object",
            remedy="replace the file by a valid one",
        )
    return value
