"""Turns pydantic's findings into Problems for people."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from carl_bundle.errors import Problem, SpecError


def report(error: ValidationError, data: Any, handler: Any) -> SpecError:
    """Return the SpecError for what pydantic found."""
    return SpecError(
        [Problem(".".join(map(str, e["loc"])), e["msg"]) for e in error.errors()]
    )
