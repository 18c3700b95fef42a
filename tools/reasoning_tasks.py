"""Which reasoning-gym tasks accept their own answers: those that can be trained on.

python -m tools.reasoning_tasks            measure all of them
python -m tools.reasoning_tasks NAME ...   measure these
"""

from __future__ import annotations

import sys
from typing import Any

ROWS, SEED = 20, 42


def rows_of(name: str, count: int, seed: int, **options: Any) -> list[dict[str, str]]:
    """`count` rows of {prompt, answer}; each answer scores 1 by the task's own scorer.

    Raises:
        ValueError: One does not, or is not text.
    """
    import reasoning_gym

    task = reasoning_gym.create_dataset(name, size=count, seed=seed, **options)
    rows = []
    for row in task:
        answer = row["answer"]
        if not isinstance(answer, str):
            raise ValueError(f"{name}: the answer is {type(answer).__name__}, not text")
        if task.score_answer(answer, row) != 1:
            raise ValueError(
                f"{name}: scores {answer!r} below 1, though it is the answer"
            )
        rows.append({"prompt": row["question"], "answer": answer})
    return rows


def fault_of(name: str) -> str:
    """Why a task cannot be used, or nothing."""
    try:
        rows_of(name, ROWS, SEED)
    except Exception as error:  # a task that fails in any way is left out, and listed
        return " ".join(str(error).split())[:100] or type(error).__name__
    return ""


def main() -> int:
    from reasoning_gym.factory import DATASETS

    names = sys.argv[1:] or sorted(DATASETS)
    faults = {name: fault_of(name) for name in names}
    good = [name for name in names if not faults[name]]
    print(f"{len(good)} of {len(names)} tasks score 1 on {ROWS} of their answers:")
    print(" ".join(good))
    for name in names:
        if faults[name]:
            print(f"left out: {name}: {faults[name]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
