"""A script that trains on a task of reasoning-gym, by the task's own score."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("reasoning_gym")

from tests.scripts import GROUPS, SMALL, render, run


def test_a_task_brings_its_rows_and_its_reward(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    spec = {
        "name": "sums",
        "method": "grpo",
        "model": str(tiny_model_dir),
        "data": {"id": "reasoning-gym:chain_sum", "limit": 8},
        "lora": False,
        "grpo": {**SMALL, **GROUPS, "max_steps": 1, "max_length": 256},
        "rewards": [{"name": "reasoning_gym"}],
        "carl": {"enabled": False},
    }
    script = render(tmp_path, spec)
    assert "reasoning-gym==" in script.read_text().partition('"""')[0]
    ended = run(script)
    assert ended.returncode == 0, ended.stderr
    line = (tmp_path / "runs/sums/metrics.jsonl").read_text().splitlines()[0]
    assert 0.0 <= json.loads(line)["rewards/reasoning_gym/mean"] <= 1.0
