"""What the forgers of `make replays` leave: one change, in a copy of the run."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from carl_runtime_min.run import chain_link, sha256, write_json
from tools.replays import Forger

CHANGES: dict[str, Callable[[Forger], str]] = {
    "rewards": Forger.reward,
    "batch": lambda forger: forger.digest("batch"),
    "samples": lambda forger: forger.digest("samples"),
    "norm": Forger.norm,
}


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]


def fits(run: Path) -> bool:
    """Whether the chain of the records, and what says where it ends, hold."""
    chain = sha256(run / "train.py")
    for row in rows(run):
        told = row.pop("chain")
        chain = chain_link(chain, row)
        if told != chain:
            return False
    return json.loads((run / "records.json").read_text()) == {"steps": chain}


@pytest.fixture
def original(tmp_path: Path) -> Path:
    run = tmp_path / "original"
    run.mkdir()
    (run / "train.py").write_text("pass\n")
    chain, lines = sha256(run / "train.py"), []
    for step in (1, 2, 3):
        row = {"phase": "grpo", "step": step, "batch": "b", "samples": "s"}
        row |= {"rewards": [[0.5, None], [0.25, None]], "norm": 3.0}
        chain = row["chain"] = chain_link(chain, row)
        lines.append(json.dumps(row) + "\n")
    (run / "steps.jsonl").write_text("".join(lines))
    write_json(run / "records.json", {"steps": chain})
    assert fits(run)
    return run


@pytest.mark.parametrize("careful", [False, True])
@pytest.mark.parametrize("key", CHANGES)
def test_a_forger_changes_one_quantity_of_the_step_that_he_names(
    original: Path, key: str, careful: bool
) -> None:
    copy, before = original.with_name("copy"), rows(original)
    shutil.copytree(original, copy, copy_function=os.link)
    steps = CHANGES[key](Forger(copy, careful, random.Random(0)))
    differing = {
        (one["step"], name)
        for one, other in zip(before, rows(copy), strict=True)
        for name in one
        if one[name] != other[name] and name != "chain"
    }
    assert len(differing) == 1
    step = differing.pop()
    assert step[1] == key
    assert steps == f"grpo:{step[0]}:{step[0]}"
    assert fits(copy) is careful
    assert fits(original), "the original is not touched"
    assert rows(original) == before
