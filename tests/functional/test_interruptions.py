"""Scripts that are stopped, killed or hang: they go on as if nothing had been."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.scripts import GROUPS, SMALL, Running, environment, render, run
from tools.kills import differing, left

pytestmark = pytest.mark.xdist_group("processes")  # they need the cores for themselves

REWARD = '''"""Counts its calls in a file; the third hangs as the file `hang` says."""

import re
import signal
import time
from pathlib import Path


def noted(completions, **rest):
    with Path("calls.txt").open("a") as file:
        file.write("x")
    hang = Path("hang").read_text() if Path("hang").exists() else ""
    if len(Path("calls.txt").read_text()) == 3:
        if hang == "deaf":
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGURG])
        if hang == "locked":
            re.match("(a+)+$", "a" * 64 + "b")
        time.sleep(600 if hang else 0)
    return [len(turns[0]["content"]) / 100 for turns in completions]
'''


def noting_script(folder: Path, **settings: Any) -> Path:
    """A script with the reward above, whose checkpoints come at its end only."""
    stall = settings.pop("stall_timeout", None)
    (folder / "rewards.py").write_text(REWARD)
    spec = {
        "name": "noting",
        "method": "grpo",
        "model": str(tiny.save(folder / "tiny", max_position_embeddings=2048)),
        "data": str(tiny.write_jsonl(folder / "qa.jsonl", tiny.questions(16))),
        "lora": False,
        "grpo": {**SMALL, **GROUPS, "save_steps": 100, **settings},
        "rewards": [{"function": "rewards.py:noted"}],
    }
    return render(folder, spec | ({"stall_timeout": stall} if stall else {}))


def calls(folder: Path) -> int:
    path = folder / "calls.txt"
    return path.stat().st_size if path.exists() else 0


def test_a_signal_in_the_middle_of_a_long_completion(tmp_path: Path) -> None:
    """The supervisor passes it on, and the last step begins to be saved at once."""
    long = {"min_new_tokens": 900}
    script = noting_script(
        tmp_path,
        **{"max_steps": 2, "max_length": 1200, "max_completion_length": 900},
        trainer={"generation_kwargs": long},
    )
    assert run(script, "--run-dir", "whole").returncode == 0
    before, saved = calls(tmp_path), tmp_path / "stopped/checkpoints/grpo/checkpoint-1"
    with Running(script, "--run-dir", "stopped") as first:
        first.until_said("grpo 1/2")
        time.sleep(0.2)  # the second generation has begun
        asked = time.monotonic()
        os.kill(first.process.pid, signal.SIGTERM)
        first.until(saved.is_dir)
        assert time.monotonic() - asked < 2
        assert first.code() == 85
    assert calls(tmp_path) == before + 1, "the second generation went to its end"
    assert run(script, "--run-dir", "stopped").returncode == 0
    assert differing(left(tmp_path / "whole"), left(tmp_path / "stopped")) is None


@pytest.mark.parametrize(
    ("hang", "code", "saved"),
    [
        ("asleep", 85, True),  # the main thread can be woken
        ("deaf", 85, False),
        ("locked", 70, False),  # it lets no other thread run
    ],
)
def test_a_phase_that_hangs_is_ended_and_can_go_on(
    tmp_path: Path, hang: str, code: int, saved: bool
) -> None:
    script = noting_script(tmp_path, max_steps=3, stall_timeout=4)
    (tmp_path / "hang").write_text(hang)
    hung = run(script)
    assert hung.returncode == code
    assert ("grpo: nothing moved for 4 s" in hung.stdout) == (code == 85)
    assert "in noted" in hung.stderr  # the stack of the main thread
    assert "Traceback" not in hung.stderr
    again = run(script)  # the reward hangs at its third call only
    assert again.returncode == 0, again.stderr
    assert ("continuing after step 2" in again.stdout) == saved


def test_an_evaluation_that_hangs_is_ended_and_can_go_on(tmp_path: Path) -> None:
    """Its second model is being scored: the third call of the reward."""
    (tmp_path / "rewards.py").write_text(REWARD)
    (tmp_path / "hang").write_text("asleep")
    step = {"max_steps": 1, "per_device_train_batch_size": 8}
    script = render(
        tmp_path,
        {
            "name": "noting",
            "sft": step,
            "grpo": {**step, "max_completion_length": 8},
            "rewards": [{"function": "rewards.py:noted"}],
            "eval": {"items": 4},
            "stall_timeout": 4,
        },
    )
    hung = run(script, "--accept", "sft")
    assert hung.returncode == 85
    assert "eval: nothing moved for 4 s" in hung.stdout
    assert "in noted" in hung.stderr
    assert "Traceback" not in hung.stderr
    again = run(script, "--accept", "sft")
    assert again.returncode in (1, 3), again.stderr  # four items prove nothing
    assert "grpo 1/1" not in again.stdout


def test_kills_leave_no_trace() -> None:
    """A pipeline that is killed four times; `make kills` does it 60 times."""
    ended = subprocess.run(
        [sys.executable, "-m", "tools.kills", "--kills", "4", "--seed", "5"],
        cwd=Path(__file__).parents[2],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
