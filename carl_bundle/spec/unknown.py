"""A value that no file tells, said out loud instead of guessed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

ValueT = TypeVar("ValueT")

MEASURE = "add --measure, which builds the model without its weights"


@dataclass(frozen=True)
class Unknown:
    """Why a value is not known, and what would tell it."""

    reason: str
    remedy: str = MEASURE

    def __str__(self) -> str:
        return f"UNKNOWN ({self.reason})"


def known(value: ValueT | Unknown) -> ValueT | None:
    """Return the value, or None where it is unknown."""
    return None if isinstance(value, Unknown) else value
