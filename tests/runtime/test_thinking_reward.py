"""Thinking and answer are told apart; the reward is one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from carl_runtime_min.field import order_parameter
from carl_runtime_min.grpo import CoherenceReward
from carl_runtime_min.thinking import ThinkingReward

END, V = 7, 50
ROWS = [[1, 2, END, 4], [1, END, END, 4, 5], [3, 3]]


def given() -> dict[str, Any]:
    draw = torch.Generator().manual_seed(0)
    entropies = [torch.rand(len(row), generator=draw) * 3 for row in ROWS]
    return {
        "token_logps": [-entropy for entropy in entropies],
        "token_entropies": entropies,
        "token_junctions": [torch.zeros(len(row), dtype=bool) for row in ROWS],
    }


def logged(reward: Any, **fields: Any) -> tuple[list[Any], dict[str, float]]:
    metrics: dict[str, float] = {}
    return reward(ROWS, log_metric=metrics.__setitem__, **fields), metrics


def test_phi_is_told_apart_at_the_last_mark() -> None:
    """A completion that never ends its thinking is thinking."""
    fields = given()
    reward, metrics = logged(ThinkingReward(V, [0.5, 0.3, 0.2], END), **fields)
    phi = [order_parameter(entropy, V) for entropy in fields["token_entropies"]]
    thought = torch.cat([phi[0][:3], phi[1][:3], phi[2]])
    assert metrics["phi/thinking"] == pytest.approx(thought.mean().item())
    answered = torch.cat([phi[0][3:], phi[1][3:]])
    assert metrics["phi/answer"] == pytest.approx(answered.mean().item())
    assert reward == logged(CoherenceReward(V, [0.5, 0.3, 0.2]), **fields)[0]


def test_without_a_mark_or_a_field_nothing_is_told_apart() -> None:
    _, metrics = logged(ThinkingReward(V, [0.5, 0.3, 0.2], None), **given())
    assert "phi/thinking" in metrics
    assert "phi/answer" not in metrics
    rewards, metrics = logged(ThinkingReward(V, [0.5, 0.3, 0.2], END))
    assert rewards == [None] * 3
    assert metrics == {}
