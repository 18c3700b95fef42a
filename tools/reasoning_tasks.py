"""Which reasoning-gym tasks can be trained on, by measuring.

python -m tools.reasoning_tasks            write carl_bundle/spec/tables
python -m tools.reasoning_tasks NAME ...   print the faults of these

A task is accepted if its rows are the same in every process, all answers are text, and
each answer scores exactly 1 by the task's own scorer.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
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
            raise ValueError(f"an answer is {type(answer).__name__}, not text")
        if task.score_answer(answer, row) != 1:
            raise ValueError(f"its answer {answer!r} scores below 1")
        rows.append({"prompt": row["question"], "answer": answer})
    return rows


def measure(names: list[str]) -> dict[str, dict[str, str]]:
    """The fault of each task that has one, and the digest of the rows of the others."""
    found: dict[str, dict[str, str]] = {"faults": {}, "digests": {}}
    for name in names:
        try:
            text = json.dumps(rows_of(name, ROWS, SEED))
            found["digests"][name] = hashlib.sha256(text.encode()).hexdigest()
        except Exception as error:  # whatever a task fails with
            said = " ".join(str(error).split())[:100]
            found["faults"][name] = said or type(error).__name__
    return found


def measured_apart(names: list[str], seed: int) -> dict[str, dict[str, str]]:
    """What `measure` finds in another process, where sets have another order."""
    environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "found.json"  # the tasks' libraries use the output
        command = [sys.executable, "-m", "tools.reasoning_tasks", "--json", *names]
        subprocess.run([*command, str(path)], env=environment, check=True)
        found: dict[str, dict[str, str]] = json.loads(path.read_text())
    return found


def judged(names: list[str]) -> dict[str, Any]:
    """The table: accepted tasks, and the others with what is wrong with them."""
    one, other = measured_apart(names, 1), measured_apart(names, 2)
    refused = {**one["faults"], **other["faults"]}
    for name, digest in one["digests"].items():
        if other["digests"].get(name, digest) != digest:
            refused[name] = "its rows differ from process to process"
    accepted = [name for name in names if name not in refused]
    made_with = {"version": version("reasoning-gym"), "rows": ROWS}
    return {**made_with, "accepted": accepted, "refused": refused}


def main() -> int:
    from reasoning_gym.factory import DATASETS

    names = [name for name in sys.argv[1:] if name != "--json"]
    if "--json" in sys.argv:
        Path(names[-1]).write_text(json.dumps(measure(names[:-1])))
        return 0
    table = judged(names or sorted(DATASETS))
    if names:
        print(json.dumps(table, indent=1))
        return 0
    from tools.make_tables import TABLES, render

    (TABLES / "reasoning_tasks.json").write_text(render(table))
    counts = len(table["accepted"]), len(table["refused"])
    print("{} tasks accepted, {} refused".format(*counts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
