"""Answers that are equal score, however they are written; what hangs does not stop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from carl_runtime_min import judge as judges
from carl_runtime_min.judge import Judge
from carl_runtime_min.math_reward import math_answer_reward, math_score

SLOW = "\\boxed{x^{12} + 3x + \\frac{1}{2}}", "$(x+1)^{12}$"


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    made = Judge(math_score)
    yield made
    made.pool.terminate()


@pytest.mark.parametrize(
    ("text", "answer", "score"),
    [
        ("The answer is 72.", "72", 1.0),
        ("1,234", "1234", 1.0),
        ("so $\\frac{1}{2}$", "0.5", 1.0),
        ("it is 3/4", "\\frac{3}{4}", 1.0),
        ("\\boxed{\\{1, 2\\}}", "$\\{2, 1\\}$", 1.0),
        ("\\boxed{x^2+2x+1}", "$(x+1)^2$", 1.0),
        ("50%", "0.5", 1.0),
        ("\\boxed{2\\sqrt{3}}", "2\\sqrt{3}", 1.0),
        ("$2$", "2\\sqrt{3}", 0.0),
        ("$3$", "3\\pi", 0.0),
        ("$5^{10}$", "5^{10}", 1.0),
        ("$1,2,3$", "1,2,3", 1.0),
        ("72", "He has 70+2 eggs\n#### 72", 1.0),
        ("18", "$18", 1.0),
        ("first 72, then 73", "72", 0.0),
        ("hi", "72", 0.0),
        ("", "72", 0.0),
        ("\\boxed{\\frac{1}{0}}{{{", "72", 0.0),
        ("72", "", 0.0),
    ],
)
def test_equal_answers_score(
    judge: Judge, text: str, answer: str, score: float
) -> None:
    assert judge.score(text, answer) == score


def test_an_answer_that_takes_too_long_scores_nothing_and_is_ended(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert judge.score("1", "1") == 1.0
    [worker] = judge.pool._pool
    monkeypatch.setattr(judges, "SECONDS", 1e-4)
    assert judge.score(*SLOW) == 0.0
    worker.join(timeout=60)
    assert not worker.is_alive()
    monkeypatch.undo()
    assert judge.score("2", "2") == 1.0


def test_thoughts_are_no_answer_and_no_answer_is_no_score() -> None:
    reward: Any = math_answer_reward({})
    texts = ["<think>7</think> 8", "<think>8", "8"]
    batch = {
        "completions": texts,
        "completion_ids": [[1]] * 3,
        "answer": [8, "8", None],
    }
    assert reward(**batch) == [1.0, 0.0, None]
