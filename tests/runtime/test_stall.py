"""What no longer moves is ended, wherever it hangs, with code 85 and its stacks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from carl_runtime_min.errors import CarlError
from carl_runtime_min.evaluation import sample_answers
from carl_runtime_min.fit import Observer, fit
from carl_runtime_min.run import checkpoints, read_json
from carl_runtime_min.stall import Watchdog
from tests import tiny, trainers
from tests.trainers import run_dir
from tools.kills import forked

SETTINGS = {"result": "model", "non_finite": "stop"}
STALLED = {"code": 85, "stalled": True}
ANSWERING = {"temperature": 0.0, "batch_size": 2, "max_new_tokens": 4}


def ended(folder: Path, action: Callable[[], Any]) -> tuple[int, str]:
    """Of a process that does `action`: its exit code, what it wrote to stderr."""

    from trl import SFTConfig, SFTTrainer  # noqa: F401  (here, and not in each fork)

    tiny.model()

    def heard() -> int:
        os.dup2(os.open(folder / "stderr", os.O_WRONLY | os.O_CREAT), 2)
        return int(action())

    status = os.waitpid(forked(heard), 0)[1]
    return os.waitstatus_to_exitcode(status), (folder / "stderr").read_text()


class Hanging(Observer):
    """Waits for a service that does not answer, when the second step is reported."""

    def __init__(self, before: Callable[[], None]) -> None:
        self.before = before

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            self.before()
            time.sleep(600)


@pytest.mark.parametrize("full", [False, True])
def test_a_tracker_that_hangs_ends_the_run_and_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    """Even if a full disk keeps everything else from being written."""

    def fill() -> None:
        for name in ("touch", "write_text") if full else ():
            monkeypatch.setattr(Path, name, no_space)

    def train() -> bool:
        trainer, watch = trainers.sft(tmp_path, max_steps=3, save_steps=1)
        run = run_dir(tmp_path, "sft")
        watches = [watch, Watchdog(run, 1)]
        return fit(trainer, run, SETTINGS, {}, watches, [Hanging(fill)])

    code, told = ended(tmp_path, train)
    assert code == 85, told
    assert "in on_log" in told
    assert list(checkpoints(tmp_path / "checkpoints" / "sft")) == [
        tmp_path / "checkpoints" / "sft" / "checkpoint-1"
    ]
    report = {} if full else {**STALLED, "phase": "sft"}
    assert read_json(tmp_path / "exit.json") == report


def no_space(*_: Any, **__: Any) -> None:
    raise OSError("No space left on device")


def answering(folder: Path, **given: Any) -> Any:
    """The evaluation of two models, as a script does it, watched."""
    run, words = run_dir(folder, "eval"), tiny.tokenizer()
    watchdog = Watchdog(run, 1)
    for _ in range(2):
        watchdog.listen(model := tiny.model())
        for name, value in given.items():
            setattr(model, name, value)
        sample_answers(model, words, ["a", "b", "c", "d"], ANSWERING, run)
    return watchdog


def test_an_evaluation_that_hangs_in_a_reward_is_ended(tmp_path: Path) -> None:
    def evaluate() -> int:
        answering(tmp_path)
        time.sleep(600)
        return 0

    code, told = ended(tmp_path, evaluate)
    assert code == 85, told
    assert "in evaluate" in told
    assert told.count("most recent call first") == 2  # its own, and the watch
    assert read_json(tmp_path / "exit.json") == {**STALLED, "phase": "eval"}


def test_an_evaluation_that_hung_for_a_while_stops_before_the_next_batch(
    tmp_path: Path,
) -> None:
    """As it is asked to: the file `stop` says so."""

    def generate(**batch: Any) -> torch.Tensor:
        time.sleep(1.5)
        ids = batch["input_ids"]
        return torch.cat([ids, ids[:, :1]], 1)

    def evaluate() -> int:
        try:
            answering(tmp_path, generate=generate)
        except CarlError as error:
            return error.exit_code
        return 0

    assert ended(tmp_path, evaluate)[0] == 85
    assert not (tmp_path / "exit.json").exists()  # that is for the phase to write


def test_forwards_are_moves(tmp_path: Path) -> None:
    def evaluate() -> int:
        began = time.monotonic()
        while time.monotonic() - began < 2.5:
            answering(tmp_path).over = True
        return 0

    code, told = ended(tmp_path, evaluate)
    assert (code, told) == (0, "")
    assert not (tmp_path / "stop").exists()
