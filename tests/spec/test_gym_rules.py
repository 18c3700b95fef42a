"""Rows that reasoning-gym generates: which tasks, and what goes with them."""

from __future__ import annotations

from typing import Any

import pytest

from carl_bundle import TrainSpec
from carl_bundle.errors import SpecError
from carl_bundle.recipes import plan

BASE: dict[str, Any] = {
    "method": "grpo",
    "model": {"id": "a/b", "frozen": {"commit": "a" * 40}},
    "data": "reasoning-gym:chain_sum",
    "rewards": [{"name": "reasoning_gym"}],
}


def problems(**changed: Any) -> list[Any]:
    with pytest.raises(SpecError) as refused:
        TrainSpec.model_validate(BASE | changed)
    return list(refused.value.problems)


def config(**changed: Any) -> dict[str, Any]:
    return plan(TrainSpec.model_validate(BASE | changed)).config


def test_rows_of_training_and_evaluation_come_from_other_seeds() -> None:
    made = config(eval={"every": 10, "items": 50})["grpo"]
    trained, judged = made["data"], made["validation"]["data"]
    assert (trained["limit"], judged["limit"]) == (4096, 50)
    assert trained["part"] == judged["part"] == [None, None]
    seeds = [set(range(d["seed"], d["seed"] + d["limit"])) for d in (trained, judged)]
    assert not seeds[0] & seeds[1]


def test_the_seed_of_the_run_decides_the_rows() -> None:
    seeds = {config(seed=seed)["grpo"]["data"]["seed"] for seed in (1, 2, 2**32 - 1)}
    assert len(seeds) == 3
    assert max(seeds) < 2**30


def test_the_reward_reads_what_generated_the_row() -> None:
    assert "metadata" in config()["grpo"]["data"]["columns"]


@pytest.mark.parametrize(
    ("data", "message", "remedy"),
    [
        ("reasoning-gym:chain_sums", "no task 'chain_sums'", "chain_sum"),
        ("reasoning-gym:rubiks_cube", "NoneType", "accepts its own answers"),
        ("reasoning-gym:word_ladder", "process", "accepts its own answers"),
        ({"id": "reasoning-gym:maze", "columns": {"answer": "a"}}, "none", "remove"),
        ({"id": "reasoning-gym:maze", "revision": "main"}, "none", "remove"),
        ({"id": "reasoning-gym:maze", "limit": 2**31 - 1}, "seeds", "at most"),
    ],
)
def test_what_no_task_has_is_refused(data: Any, message: str, remedy: str) -> None:
    found = [one for one in problems(data=data) if message in one.message]
    assert found
    assert remedy in (found[0].remedy or "")


def test_the_reward_needs_generated_rows() -> None:
    found = problems(data="rows.jsonl")
    assert any("there are others" in one.message for one in found)


@pytest.mark.parametrize("method", ["dpo", "kto", "orpo"])
def test_a_task_has_no_worse_answers(method: str) -> None:
    found = problems(method=method, rewards=[])
    assert any("compares answers" in one.message for one in found)
