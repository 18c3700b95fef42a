"""Rewards of tools and of clicks in scripts that really run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from carl_runtime_min.run import read_json
from tests import tiny
from tests.scripts import GROUPS, SMALL, here, load, render, run

TOOLS = [{"name": "read", "parameters": {"properties": {}, "required": []}}]
CALL = json.dumps({"name": "read", "arguments": {}})
TOOL_REWARDS = [{"name": "tool_call_format"}, {"name": "tool_selection", "weight": 0.5}]
CLICKS = [{"name": "click_inside", "scale": 1000}, {"name": "coordinate_format"}]


def spec_of(model: Path, data: Path, rewards: list[Any]) -> dict[str, Any]:
    return {
        "name": "x",
        "method": "grpo",
        "model": str(model),
        "data": {"id": str(data), "columns": {"prompt": "question"}},
        "rewards": rewards,
        "lora": False,
        "grpo": {**SMALL, **GROUPS, "max_steps": 2, "learning_rate": 0.001},
    }


def rows(folder: Path, **columns: Any) -> Path:
    asked = [{"question": q["prompt"], **columns} for q in tiny.questions(8)]
    return tiny.write_jsonl(folder / "rows.jsonl", asked)


def logged(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "loss" in row]


def test_tool_rewards_train_a_model(tmp_path: Path, tiny_model_dir: Path) -> None:
    """Half of the completions pass for calls, so that there is something to prefer."""
    data = rows(tmp_path, tools=TOOLS, expected_tools=["read"])
    script = render(tmp_path, spec_of(tiny_model_dir, data, TOOL_REWARDS))
    module = load(script)
    read = module.completion_text

    def every_other_calls(completion: Any) -> str:
        return CALL if sum(map(ord, read(completion))) % 2 else "hi"

    module.completion_text = every_other_calls
    assert here(script, "--phase", "grpo", module=module) == 0
    for row in logged(tmp_path / "runs" / "x"):
        right = row["rewards/tool_call_format/mean"]
        assert 0 < right < 1
        assert row["rewards/tool_selection/mean"] == right
        assert row["grad_norm"] > 0
    assert read_json(tmp_path / "runs" / "x" / "summary.json")["weights_sha256"]


def test_click_rewards_run(tmp_path: Path, tiny_model_dir: Path) -> None:
    data = rows(tmp_path, bbox=[1, 2, 3, 4], width=100, height=50)
    script = render(tmp_path, spec_of(tiny_model_dir, data, CLICKS))
    assert here(script, "--phase", "grpo") == 0
    for row in logged(tmp_path / "runs" / "x"):
        assert 0 <= row["rewards/click_inside/mean"] <= 1
    text = script.read_text()
    assert "def click_inside_reward(" in text
    for absent in ("def click_distance_reward(", "class ToolUse", "JSONDecoder"):
        assert absent not in text


@pytest.mark.parametrize(
    ("rewards", "column", "columns"),
    [
        (TOOL_REWARDS, "tools", {"expected_tools": ["read"]}),
        (TOOL_REWARDS, "expected_tools", {"tools": TOOLS}),
        ([{"name": "tool_chain"}], "expected_tools", {}),
        (CLICKS, "bbox", {"width": 3, "height": 4}),
        (CLICKS, "width", {"bbox": [1, 2, 3, 4], "height": 4}),
    ],
)
def test_missing_columns_are_named_before_any_weights_are_read(
    tmp_path: Path, rewards: Any, column: str, columns: dict[str, Any], capsys: Any
) -> None:
    model = tiny.save(tmp_path / "model")
    script = render(tmp_path, spec_of(model, rows(tmp_path, **columns), rewards))
    (model / "model.safetensors").unlink()
    assert here(script, "--phase", "grpo") == 2
    assert f"rows.jsonl: no column '{column}'" in capsys.readouterr().err


def test_mathematical_answers_are_judged_beside_the_training(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    """In a process of their own, which needs the script as a program."""
    rows = [{"prompt": f"{i}+1?", "answer": str(i + 1)} for i in range(8)]
    spec = {
        "name": "maths",
        "method": "grpo",
        "model": str(tiny_model_dir),
        "data": str(tiny.write_jsonl(tmp_path / "rows.jsonl", rows)),
        "grpo": {**SMALL, **GROUPS, "max_steps": 2},
        "rewards": [{"name": "math_answer"}],
    }
    script = render(tmp_path, spec)
    assert '#     "antlr4-python3-runtime==' in script.read_text()
    ended = run(script)
    assert ended.returncode == 0, ended.stderr
    metrics = (tmp_path / "runs" / "maths" / "metrics.jsonl").read_text()
    means = [
        json.loads(line)["rewards/math_answer/mean"] for line in metrics.splitlines()
    ]
    assert all(0 <= mean <= 1 for mean in means)
    assert len(means) == 2


NOVELTY = """
class Novelty:
    def __init__(self):
        self.seen = []

    def __call__(self, completions, **columns):
        self.seen += [turns[0]["content"][:1] for turns in completions]
        return [1 / (len(self.seen) - i) for i in range(len(completions))]

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]
"""


def test_what_a_reward_remembers_outlives_a_stop(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    (tmp_path / "rewards.py").write_text(NOVELTY)
    reward = {"function": "rewards.py:Novelty"}
    spec = spec_of(tiny_model_dir, rows(tmp_path), [reward])
    spec["grpo"] |= {"max_steps": 3, "save_steps": 1, "logging_steps": 1}
    script, folder = render(tmp_path, spec), tmp_path / "runs" / "x"
    assert here(script, "--phase", "grpo") == 0
    whole = logged(folder)
    means = [row["rewards/Novelty/mean"] for row in whole]
    assert means[2] < means[1] < means[0], "it remembers, from step to step"
    for name in ("checkpoint-2", "checkpoint-3", "checkpoint-result"):
        shutil.rmtree(folder / "checkpoints" / "grpo" / name, ignore_errors=True)
    assert here(script, "--phase", "grpo") == 0
    again = [row["rewards/Novelty/mean"] for row in logged(folder)]
    assert again == means


def test_a_reward_class_without_a_state_is_refused(
    tmp_path: Path, tiny_model_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rewards.py").write_text(NOVELTY.replace("def state_dict", "def state"))
    reward = {"function": "rewards.py:Novelty"}
    script = render(tmp_path, spec_of(tiny_model_dir, rows(tmp_path), [reward]))
    assert here(script, "--phase", "grpo") == 2
    assert "the reward Novelty has no state" in capfd.readouterr().err
