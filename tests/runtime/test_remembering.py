"""Rewards that are classes: one instance, with a state that is kept."""

from __future__ import annotations

from typing import Any

import pytest

from carl_runtime_min.errors import UsageError
from carl_runtime_min.remembering import made_reward


class Counting:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, **_: Any) -> list[float]:
        self.calls += 1
        return [float(self.calls)]

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.calls = state["calls"]


class Forgetful:
    def __call__(self, **_: Any) -> list[float]:
        return [1.0]


def test_a_class_is_made_once_and_keeps_its_name() -> None:
    made = made_reward(Counting)
    assert [made(), made()] == [[1.0], [2.0]]
    assert made.__name__ == "Counting"


def test_a_function_is_what_it_is() -> None:
    assert made_reward(len) is len


def test_a_class_without_a_state_is_refused() -> None:
    with pytest.raises(UsageError, match="Forgetful has no state") as refused:
        made_reward(Forgetful)
    assert "load_state_dict" in refused.value.remedy
