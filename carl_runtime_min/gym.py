"""Tasks of reasoning-gym: rows that it generates, answers that it scores."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

from carl_runtime_min.judge import Judge
from carl_runtime_min.tasks import TaskReward, answer_text

GYM = "reasoning-gym:"


def gym_rows(source: dict[str, Any]) -> Any:
    """`limit` rows {prompt, answer, metadata}; the last says what generates the row."""
    from datasets import Dataset

    name, size, seed = source["id"].removeprefix(GYM), source["limit"], source["seed"]
    rows, origin = [], {"task": name, "size": size, "seed": seed}
    for index, row in enumerate(gym_task(name, size, seed)):
        text = {"prompt": row["question"], "answer": row["answer"]}
        rows.append({**text, "metadata": {**origin, "index": index}})
    return Dataset.from_list(rows)


@lru_cache(maxsize=16)
def gym_task(name: str, size: int, seed: int) -> Any:
    import reasoning_gym

    return reasoning_gym.create_dataset(name, size=size, seed=seed)


@lru_cache(maxsize=256)
def gym_row(name: str, size: int, seed: int, index: int) -> Any:
    """The row as it was generated: JSON would lose the types of what it holds."""
    return gym_task(name, size, seed)[index]


def gym_score(text: str, origin: dict[str, Any]) -> float:
    """The task's own score in [0, 1] of the last <answer> in `text`, else of all of it.

    An answer that the task fails on scores 0.
    """
    from reasoning_gym.utils import extract_answer

    key = origin["task"], origin["size"], origin["seed"]
    row, task = gym_row(*key, origin["index"]), gym_task(*key)
    found = extract_answer(text)
    try:
        score = float(task.score_answer(text if found is None else found, row))
    except Exception:  # a scorer may raise anything on what is no answer
        return 0.0
    return max(0.0, min(1.0, score)) if math.isfinite(score) else 0.0


def reasoning_gym_reward(options: dict[str, Any]) -> TaskReward:
    """What the task that generated the row gives the completion, after its thoughts."""
    judge = Judge(gym_score)

    def scorer(text: str, count: int, origin: Any) -> float:
        return judge.score(answer_text(text), origin)

    return TaskReward("reasoning_gym", scorer, "metadata")
