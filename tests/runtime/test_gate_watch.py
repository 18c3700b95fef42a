"""What the gate sees of training, and what it may do to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from carl_runtime_min.fit import fit
from carl_runtime_min.gate import PhaseTransitionGate
from carl_runtime_min.gate_watch import GateWatch
from tests import trainers
from tests.trainers import run_dir

METRIC = "mean_token_accuracy"


class Noting(PhaseTransitionGate):
    """A gate that never fires and notes what it is shown."""

    def __init__(self) -> None:
        super().__init__(threshold=2.0)
        self.seen: list[tuple[Any, ...]] = []

    def check(self, value: Any, entropy: Any = None, step: int | None = None) -> bool:
        self.seen.append((step, value, entropy))
        return super().check(value, entropy, step)


def train(folder: Path, gate: Any, metric: str = METRIC, **given: Any) -> Any:
    stop = given.pop("stop", True)
    trainer, _ = trainers.sft(folder, max_steps=6, **given)
    watch = GateWatch(trainer, gate, metric, stop)
    fit(
        trainer,
        run_dir(folder, "sft"),
        {"result": "model", "non_finite": "stop"},
        {"gate": gate},
        [watch],
    )
    return trainer


@pytest.mark.parametrize("accumulation", [1, 3])
def test_each_optimizer_step_is_one_observation_however_rare_the_log(
    tmp_path: Path, accumulation: int
) -> None:
    """It is the mean over the step's micro-batches, as a log of every step says."""
    given = {
        "gradient_accumulation_steps": accumulation,
        "per_device_train_batch_size": 2,
    }
    every, rare = Noting(), Noting()
    trainer = train(tmp_path / "every", every, logging_steps=1, **given)
    train(tmp_path / "rare", rare, logging_steps=4, **given)
    assert every.seen == rare.seen
    rows = [row for row in trainer.state.log_history if METRIC in row]
    expected = [(row["step"], row[METRIC], row["entropy"]) for row in rows]
    assert [step for step, _, _ in every.seen] == [1, 2, 3, 4, 5, 6]
    for found, logged in zip(every.seen, expected, strict=True):
        assert found == pytest.approx(logged, abs=1e-4)
    assert every.peak_entropy == max(entropy for _, _, entropy in every.seen)


def test_a_step_without_the_metric_is_no_observation(tmp_path: Path) -> None:
    gate = Noting()
    train(tmp_path, gate, metric="something_else")
    assert gate.values == []
    assert gate.peak_entropy is None


@pytest.mark.parametrize("stop", [True, False])
def test_a_gate_ends_the_phase_only_where_it_should(
    tmp_path: Path, stop: bool, capsys: Any
) -> None:
    gate = PhaseTransitionGate(threshold=0.0, window=3, min_above=3)
    trainer = train(tmp_path, gate, stop=stop)
    assert gate.step == 3
    assert trainer.state.global_step == (3 if stop else 6)
    assert "gate: fired at step 3" in capsys.readouterr().out
    assert (tmp_path / "model").is_dir()
    if stop:
        assert (tmp_path / "checkpoints" / "sft" / "checkpoint-3").is_dir()
