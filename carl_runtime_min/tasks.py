"""Task rewards: is the answer right, well formed, of the wanted length? In [0, 1]."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from carl_runtime_min.errors import UsageError


def completion_text(completion: str | list[dict[str, Any]]) -> str:
    """The text of a plain completion, or of the last message of a conversation."""
    if isinstance(completion, str):
        return completion
    content = completion[-1].get("content") if completion else ""
    return content if isinstance(content, str) else ""


class TaskReward:
    """A scorer of one completion as a TRL reward function over a batch.

    Args:
        name: What the metrics call it.
        scorer: (text, token count, row of the data set) -> score, None if unscorable.
        column: The column that a row must hold, or None.
    """

    def __init__(
        self,
        name: str,
        scorer: Callable[[str, int, Any], float | None],
        column: str | None = None,
    ) -> None:
        self.__name__, self.scorer, self.column = name, scorer, column

    def __call__(
        self,
        completions: list[Any],
        completion_ids: list[list[int]],
        **columns: Any,
    ) -> list[float | None]:
        if self.column and self.column not in columns:
            raise UsageError(
                f"reward {self.__name__} needs the column {self.column!r}, "
                f"the data has: {', '.join(sorted(columns))}",
                remedy=f"map it: data.columns.{self.column}: <name of your column>",
            )
        expected = columns[self.column] if self.column else [None] * len(completions)
        texts = map(completion_text, completions)
        counts = map(len, completion_ids)
        return list(map(self.scorer, texts, counts, expected))


def exact_answer_reward(options: dict[str, Any]) -> TaskReward:
    """1 if the text, or what `extract` finds last in it, equals the row's answer."""
    extract = options.get("extract") and re.compile(options["extract"], re.DOTALL)

    def scorer(text: str, count: int, answer: Any) -> float | None:
        if answer is None:
            return None
        if extract:
            found = list(extract.finditer(text))
            text = (found[-1].group(extract.groups and 1) or "") if found else ""
        return float(bool(text) and text.strip() == str(answer).strip())

    return TaskReward("exact_answer", scorer, "answer")


def pattern_reward(options: dict[str, Any]) -> TaskReward:
    """1 if the text holds `pattern`; with `full`, if the whole text is one match."""
    compiled = re.compile(options["pattern"], re.DOTALL)
    find = compiled.fullmatch if options.get("full") else compiled.search
    return TaskReward("pattern", lambda text, count, _: float(bool(find(text))))


def length_reward(options: dict[str, Any]) -> TaskReward:
    """1 up to `target` tokens, then falling to 0 at `target + tolerance` tokens."""
    target, tolerance = options["target"], options["tolerance"]

    def scorer(text: str, count: int, _: Any) -> float:
        return max(0.0, min(1.0, 1 - (count - target) / tolerance))

    return TaskReward("length", scorer)
