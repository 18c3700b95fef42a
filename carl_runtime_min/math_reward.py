"""A reward for mathematical answers, which can be written in many ways."""

from __future__ import annotations

import multiprocessing
import re
from typing import Any

from carl_runtime_min.tasks import TaskReward, answer_text

SECONDS = 10.0  # for one answer
FIRST = 120.0  # for the first one, with the imports
PROSE = r"(?<![\\A-Za-z])[A-Za-z]{2,}|\$|\\boxed|\\[\[(]"  # or LaTeX with marks


def math_score(text: str, answer: str) -> float:
    """1 if `text` ends in what math-verify takes for `answer`, else 0."""
    from math_verify import parse, verify

    ways = [answer, f"${answer}$"]  # of LaTeX without marks only a number would be read
    first, second = ways if re.search(PROSE, answer) else reversed(ways)
    return float(verify(parse(first) or parse(second), parse(text)))


class MathJudge:
    """Scores in a process of its own: what takes too long is ended, and scores 0."""

    pool: Any = None

    def score(self, text: str, answer: str) -> float:
        seconds = SECONDS if self.pool else FIRST
        self.pool = self.pool or multiprocessing.get_context("spawn").Pool(1)
        try:
            pending = self.pool.apply_async(math_score, (text, answer))
            return float(pending.get(seconds))
        except multiprocessing.TimeoutError:
            self.pool.terminate()
            self.pool = None
            return 0.0


def math_answer_reward(options: dict[str, Any]) -> TaskReward:
    """1 if the completion, after its thoughts, ends in the row's answer, else 0."""
    judge = MathJudge()

    def scorer(text: str, count: int, answer: Any) -> float | None:
        return None if answer is None else judge.score(answer_text(text), str(answer))

    return TaskReward("math_answer", scorer, "answer")
