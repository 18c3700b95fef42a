"""What a recipe asks of the bundler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class UserFunction:
    """A function of the user's, as `path.py:name` in the spec."""

    path: str
    name: str


@dataclass(frozen=True)
class Plan:
    """One script, before it is put together.

    Attributes:
        recipe: The method, such as "sft".
        template: File name of the wiring in `templates/`.
        choices: The structure of the script; all that a template sees. Two specs with
            equal choices give scripts that differ in CONFIG alone.
        config: What becomes the CONFIG literal.
        user_code: Functions of the user's that the script carries.
        dependencies: Requirements of the user's code.
    """

    recipe: str
    template: str
    choices: Mapping[str, str | bool]
    config: dict[str, Any]
    user_code: tuple[UserFunction, ...] = ()
    dependencies: tuple[str, ...] = ()
