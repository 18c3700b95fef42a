"""What a model's tokenizer files say: chat template, special tokens, length."""

from __future__ import annotations

import json

from carl_bundle.errors import UsageError
from carl_bundle.spec.model_files import ModelFiles
from carl_bundle.spec.unknown import Unknown

MAX_BYTES = 64 * 1_048_576
"""Longest tokenizer.json that is read, in bytes."""


def chat_template(files: ModelFiles) -> str | None:
    """Return the chat template, from the newest of the places it was kept in.

    Raises:
        UsageError: It is no text.
    """
    raw = files.content.get("chat_template.jinja")
    if raw is not None:
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(
                f"{files.source}: chat_template.jinja is not UTF-8 text",
                remedy="save it as UTF-8",
            ) from error
    for name in ("chat_template.json", "tokenizer_config.json"):
        value = (files.json(name) or {}).get("chat_template")
        if isinstance(value, list):
            named = {t.get("name"): t for t in value if isinstance(t, dict)}
            value = named.get("default", {}).get("template")
        if isinstance(value, str):
            return value
        if value is not None:
            raise UsageError(
                f"{files.source}: {name}: chat_template is not a string",
                remedy="replace the file",
            )
    return None


def special_tokens(files: ModelFiles) -> dict[str, str]:
    """Return the text of each special token by name, such as `eos_token`."""
    tokens = {}
    for name, value in (files.json("tokenizer_config.json") or {}).items():
        if name.endswith("_token"):
            text = value.get("content") if isinstance(value, dict) else value
            tokens[name] = text if isinstance(text, str) else ""
    return tokens


def tokenizer_length(files: ModelFiles) -> int | Unknown:
    """Return how many ids tokenizer.json knows, where it is at hand."""
    path = files.directory / "tokenizer.json" if files.directory else None
    if path is None or not path.is_file():
        return Unknown("tokenizer.json is not at hand", "download the tokenizer")
    if path.stat().st_size > MAX_BYTES:
        return Unknown(f"tokenizer.json is larger than {MAX_BYTES} bytes")
    invalid = Unknown("tokenizer.json cannot be read", "replace it")
    try:
        tokenizer = json.loads(path.read_bytes())
        vocabulary = tokenizer["model"]["vocab"]
        words = (
            set(vocabulary.values())
            if isinstance(vocabulary, dict)
            else set(range(len(vocabulary)))
        )
        added = {token["id"] for token in tokenizer.get("added_tokens") or []}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return invalid
    return len(words | added)
