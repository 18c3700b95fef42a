"""Every error of the command and the SDK, in one hierarchy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from carl_runtime_min.errors import (
    CarlError,
    ConfigurationError,
    RemoteError,
    UsageError,
)

__all__ = [
    "BundleError",
    "CarlError",
    "ConfigurationError",
    "Problem",
    "RemoteError",
    "SpecError",
    "UsageError",
    "UserCodeError",
]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a spec.

    Attributes:
        where: The field as written in the spec, such as `grpo.num_generations`;
            several fields are separated by a comma and a blank.
        message: What is wrong.
        remedy: What to do about it.
    """

    where: str
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class SpecError(UsageError):
    """A spec cannot be used; `problems` lists all that is wrong with it."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        remedies = dict.fromkeys(p.remedy for p in self.problems if p.remedy)
        super().__init__(
            "\n".join(str(problem) for problem in self.problems),
            remedy="; ".join(remedies),
        )


class BundleError(CarlError):
    """A script cannot be put together from this spec."""


class UserCodeError(UsageError):
    """Code that a spec refers to cannot be carried by a script."""
