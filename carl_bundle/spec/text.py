"""Strings in a spec: what an identifier and a free text may hold."""

from __future__ import annotations

import unicodedata
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

MAX_IDENTIFIER = 1024
"""Longest identifier, path or name, in characters."""

MAX_TEXT = 65_536
"""Longest free text (system prompt, pattern), in characters."""

# Control characters, lone surrogates, and the line and paragraph separators.
_REFUSED = frozenset({"Cc", "Cs", "Zl", "Zp"})
# Embeddings, overrides and isolates make a name read as another one.
_BIDI = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def check_identifier(value: str) -> str:
    """Return an id, path or name unchanged.

    Raises:
        ValueError: It is empty, too long, or holds a character that cannot be
            seen or that ends a line.
    """
    if not value:
        raise ValueError("must not be empty")
    if len(value) > MAX_IDENTIFIER:
        raise ValueError(
            f"has {len(value)} characters; at most {MAX_IDENTIFIER} are allowed"
        )
    for character in value:
        if unicodedata.category(character) in _REFUSED or character in _BIDI:
            raise ValueError(
                f"holds the control character U+{ord(character):04X}; "
                "remove it (quote the value if the shell or editor added it)"
            )
    if value != value.strip():
        raise ValueError("starts or ends with a blank; remove it")
    return value


def check_text(value: str) -> str:
    """Return a free text unchanged: any Unicode that UTF-8 can encode.

    Raises:
        ValueError: It is too long, or holds a lone surrogate.
    """
    if len(value) > MAX_TEXT:
        raise ValueError(f"has {len(value)} characters; at most {MAX_TEXT} are allowed")
    for character in value:
        if "\ud800" <= character <= "\udfff":
            raise ValueError(
                f"holds the lone surrogate U+{ord(character):04X}, which is no text; "
                "save the file as UTF-8"
            )
    return value


Identifier = Annotated[str, AfterValidator(check_identifier)]
Text = Annotated[str, AfterValidator(check_text)]


def _list_to_tuple(value: Any) -> Any:
    """YAML has lists, a frozen spec has tuples; sets and iterators have no order."""
    return tuple(value) if type(value) is list else value


AS_TUPLE = BeforeValidator(_list_to_tuple)
