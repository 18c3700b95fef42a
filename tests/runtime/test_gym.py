"""Rows that reasoning-gym generates, and its scores of whatever a model answers."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("reasoning_gym")

from carl_bundle.spec.tables import table
from carl_runtime_min import judge
from carl_runtime_min.gym import GYM, gym_rows, gym_score, reasoning_gym_reward

TASKS = ("chain_sum", "sudoku", "countdown", "knights_knaves", "number_format", "maze")


def rows(task: str, limit: int = 4, seed: int = 1) -> Any:
    return gym_rows({"id": f"{GYM}{task}", "limit": limit, "seed": seed})


def test_rows_have_a_question_its_answer_and_where_they_come_from() -> None:
    made = rows("chain_sum")
    assert made.column_names == ["prompt", "answer", "metadata"]
    assert len(made) == len(set(made["prompt"])) == 4
    origin = {"task": "chain_sum", "size": 4, "seed": 1, "index": 3}
    assert made[3]["metadata"] == origin


def test_a_seed_decides_the_rows() -> None:
    assert rows("chain_sum")["prompt"][:] == rows("chain_sum")["prompt"][:]
    other = rows("chain_sum", seed=1000)["prompt"][:]
    assert not set(rows("chain_sum")["prompt"]) & set(other)


@pytest.mark.parametrize("task", TASKS)
def test_the_answer_scores_one_however_it_is_wrapped(task: str) -> None:
    for row in rows(task):
        answer, origin = row["answer"], row["metadata"]
        assert gym_score(answer, origin) == 1.0
        tagged = f"<answer>no</answer> or <answer>{answer}</answer> it is"
        assert gym_score(tagged, origin) == 1.0


def test_of_several_answers_the_last_counts() -> None:
    row = rows("chain_sum")[0]
    text = f"<answer>{row['answer']}</answer><answer>no</answer>"
    assert gym_score(text, row["metadata"]) < 1.0


@pytest.mark.parametrize("task", TASKS)
@given(
    text=st.one_of(
        st.text(max_size=80),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda x: st.lists(x) | st.dictionaries(st.text(), x),
            max_leaves=8,
        ).map(json.dumps),
    ),
    tagged=st.booleans(),
)
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_text_scores_between_0_and_1(task: str, text: str, tagged: bool) -> None:
    origin = {"task": task, "size": 4, "seed": 1, "index": 0}
    score = gym_score(f"<answer>{text}</answer>" if tagged else text, origin)
    assert math.isfinite(score)
    assert 0.0 <= score <= 1.0


class Rogue:
    """A task whose scorer gives `outcome`, or raises it."""

    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"question": "", "answer": "", "metadata": {}}

    def score_answer(self, answer: str, row: dict[str, Any]) -> Any:
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


@pytest.mark.parametrize(
    ("outcome", "score"),
    [
        (2, 1.0),
        (-1, 0.0),
        (True, 1.0),
        (math.nan, 0.0),
        (math.inf, 0.0),
        (None, 0.0),
        ("much", 0.0),
        (ValueError("no"), 0.0),
        (RecursionError(), 0.0),
    ],
)
def test_what_a_scorer_does_wrong_is_no_reward(
    monkeypatch: pytest.MonkeyPatch, outcome: Any, score: float
) -> None:
    from carl_runtime_min import gym

    monkeypatch.setattr(gym, "gym_task", lambda *key: Rogue(outcome))
    monkeypatch.setattr(gym, "gym_row", lambda *key: {})
    origin = {"task": "x", "size": 1, "seed": 0, "index": 0}
    assert gym_score("1", origin) == score


def test_the_reward_judges_what_follows_the_thoughts_in_another_process() -> None:
    made, reward = rows("chain_sum", 2), reasoning_gym_reward({})
    right, wrong = made["answer"]
    texts = [f"<think>{wrong}</think><answer>{right}</answer>", "<think>on and on"]
    found = reward(
        completions=texts, completion_ids=[[1], [1]], metadata=made["metadata"][:]
    )
    assert found == [1.0, 0.0]


def test_a_scorer_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    made = judge.Judge(time.sleep)
    monkeypatch.setattr(judge, "FIRST", 1.0)
    assert made.score(60) == 0.0
    assert made.pool is None


def test_the_table_names_the_pinned_version() -> None:
    from importlib.metadata import version

    from carl_bundle.bundler.pins import PINS

    known = table("reasoning_tasks.json")
    assert known["version"] == PINS["reasoning-gym"] == version("reasoning-gym")
    assert not set(known["accepted"]) & set(known["refused"])
    assert set(TASKS) <= set(known["accepted"])


def test_every_task_of_the_library_was_measured() -> None:
    from reasoning_gym.factory import DATASETS

    known = table("reasoning_tasks.json")
    assert {*known["accepted"], *known["refused"]} == set(DATASETS)
