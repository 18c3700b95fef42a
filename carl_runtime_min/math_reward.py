"""A reward for mathematical answers, which can be written in many ways."""

from __future__ import annotations

import re
from typing import Any

from carl_runtime_min.judge import Judge
from carl_runtime_min.tasks import TaskReward, answer_text

PROSE = r"(?<![\\A-Za-z])[A-Za-z]{2,}|\$|\\boxed|\\[\[(]"  # or LaTeX with marks


def math_score(text: str, answer: str) -> float:
    """1 if `text` ends in what math-verify takes for `answer`, else 0."""
    from math_verify import parse, verify

    ways = [answer, f"${answer}$"]  # of LaTeX without marks only a number would be read
    first, second = ways if re.search(PROSE, answer) else reversed(ways)
    return float(verify(parse(first) or parse(second), parse(text)))


def math_answer_reward(options: dict[str, Any]) -> TaskReward:
    """1 if the completion, after its thoughts, ends in the row's answer, else 0."""
    judge = Judge(math_score)

    def scorer(text: str, count: int, answer: Any) -> float | None:
        return None if answer is None else judge.score(answer_text(text), str(answer))

    return TaskReward("math_answer", scorer, "answer")
