"""Typed access to a `config.json`, with the class defaults for what it leaves out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NoReturn

from carl_bundle.errors import UsageError
from carl_bundle.spec.tables import table

_TABLE = "model_types.json"
MAX_LAYERS = 10_000


def known_types() -> dict[str, Any]:
    """Return the entries of all model types that write text, by type."""
    types: dict[str, Any] = table(_TABLE)["types"]
    return types


def other_types() -> frozenset[str]:
    """Return the model types that transformers knows and that write no text."""
    return frozenset(table(_TABLE)["others"])


@dataclass(frozen=True)
class ConfigReader:
    """One block of a config.json, read with the entry of its model type.

    Attributes:
        source: Model and file, for messages.
        prefix: `""`, or the key of the block and a dot.
        values: The block.
        entry: The table's entry for its type; empty for an unknown type.
    """

    source: str
    prefix: str
    values: dict[str, Any]
    entry: dict[str, Any]

    def spellings(self, name: str) -> list[str]:
        """Return the names under which a file may have a field."""
        alias: dict[str, str] = self.entry.get("alias", {})
        others = [new for new, old in alias.items() if old == name]
        return [name, *([alias[name]] if name in alias else []), *others]

    def given(self, name: str) -> Any:
        """Return what the file says of a field, or None."""
        found = (self.values.get(key) for key in self.spellings(name))
        return next((value for value in found if value is not None), None)

    def raw(self, name: str) -> Any:
        """Return what the file says of a field, else the class default, else None."""
        value = self.given(name)
        # Null in the file is not the same as leaving the field out.
        if value is None and not any(
            key in self.values for key in self.spellings(name)
        ):
            value = self.entry.get("defaults", {}).get(name)
        return value

    def has(self, name: str) -> bool:
        """Whether the file or the class has the field at all."""
        names = self.spellings(name)
        defaults = self.entry.get("defaults", {})
        return any(key in self.values or key in defaults for key in names)

    def integer(self, name: str, minimum: int = 0) -> int | None:
        """Return a whole number of at least `minimum`, or None.

        Raises:
            UsageError: The file has something else there.
        """
        value = self.raw(name)
        if value is None:
            return None
        if type(value) is not int or value < minimum or value > 2**53:
            self.refuse(name, value, f"a whole number of at least {minimum}")
        return value

    def number(self, name: str) -> float | None:
        """Return a positive number, or None. Raises UsageError as `integer`."""
        value = self.raw(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            self.refuse(name, value, "a positive number")
        return float(value)

    def boolean(self, name: str) -> bool | None:
        """Return true or false, or None. Raises UsageError as `integer`."""
        value = self.raw(name)
        if value is not None and type(value) is not bool:
            self.refuse(name, value, "true or false")
        return value

    def strings(self, name: str) -> list[str] | None:
        """Return a list of strings, or None. Raises UsageError as `integer`."""
        value = self.given(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(type(v) is str for v in value):
            self.refuse(name, value, "a list of strings")
        if len(value) > MAX_LAYERS:
            self.refuse(name, value, f"at most {MAX_LAYERS} items")
        return list(value)

    def block(self, name: str) -> dict[str, Any] | None:
        """Return a nested object, or None. Raises UsageError as `integer`."""
        value = self.given(name)
        if value is not None and not isinstance(value, dict):
            self.refuse(name, value, "an object")
        return value

    def name(self, key: str) -> str | None:
        """Return an identifier, or None. Raises UsageError as `integer`."""
        value = self.given(key)
        if value is None:
            return None
        if type(value) is not str or not re.fullmatch(r"[\w.-]{1,120}", value):
            self.refuse(key, value, "an identifier")
        return str(value)

    def refuse(self, name: str, value: Any, expected: str) -> NoReturn:
        """Raise the UsageError for a field that holds something else."""
        text = repr(value)
        shown = text if len(text) <= 60 else f"{text[:57]}..."
        raise UsageError(
            f"{self.source}: {self.prefix}{name} is {shown}, not {expected}",
            remedy="replace the file: it is not what transformers wrote",
        )
