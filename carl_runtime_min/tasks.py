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


def answer_text(completion: str | list[dict[str, Any]]) -> str:
    """The text of a completion after its thoughts; nothing of thoughts without end."""
    text = completion_text(completion).rpartition("</think>")[2]
    return text.partition("<think>")[0].strip()


class TaskReward:
    """A scorer of one completion, as a TRL reward function over a batch.

    `scorer` takes the text, its number of tokens and the row's `column`; None is no
    score.
    """

    def __init__(
        self, name: str, scorer: Callable[..., float | None], column: str = "prompts"
    ) -> None:
        self.__name__, self.scorer, self.column = name, scorer, column

    def __call__(self, **batch: Any) -> list[float | None]:
        if self.column not in batch:
            message = f"reward {self.__name__}: the data has no column {self.column!r}"
            remedy = f"set data.columns.{self.column} to the name of your column"
            raise UsageError(message, remedy=remedy)
        texts = map(completion_text, batch["completions"])
        counts = map(len, batch["completion_ids"])
        return list(map(self.scorer, texts, counts, batch[self.column]))


class RowReward(TaskReward):
    """A TaskReward whose scorer takes all of a row, by name, for its `column`."""

    def __call__(self, **batch: Any) -> list[float | None]:
        if self.column in batch:
            columns = {k: v for k, v in batch.items() if isinstance(v, list)}
            rows = zip(*columns.values(), strict=True)
            batch[self.column] = [dict(zip(columns, row, strict=True)) for row in rows]
        return super().__call__(**batch)


def exact_answer_reward(options: dict[str, Any]) -> TaskReward:
    """1 if the text, or what `extract` finds last in it, equals the row's answer."""
    extract = options["extract"] and re.compile(options["extract"], re.DOTALL)

    def scorer(text: str, count: int, answer: Any) -> float | None:
        if extract:
            found = [""] + [hit[extract.groups and 1] for hit in extract.finditer(text)]
            text = found[-1] or ""
        return None if answer is None else float(text.strip() == str(answer).strip())

    return TaskReward("exact_answer", scorer, "answer")


def pattern_reward(options: dict[str, Any]) -> TaskReward:
    """1 if the text holds `pattern`; with `full`, if the whole text is one match."""
    compiled = re.compile(options["pattern"], re.DOTALL)
    find = compiled.fullmatch if options["full"] else compiled.search
    return TaskReward("pattern", lambda text, count, row: float(bool(find(text))))


def length_reward(options: dict[str, Any]) -> TaskReward:
    """1 up to `target` tokens, then falling to 0 at `target + tolerance` tokens."""
    target, tolerance = int(options["target"]), int(options["tolerance"])

    def scorer(text: str, count: int, row: Any) -> float:
        return max(0.0, min(1.0, 1 - (count - target) / tolerance))

    return TaskReward("length", scorer)
