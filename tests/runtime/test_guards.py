"""What is not finite: an error that names it, or left out without a trace."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

from carl_runtime_min.errors import CarlError
from carl_runtime_min.fit import Observer, fit
from carl_runtime_min.gate import PhaseTransitionGate
from carl_runtime_min.grpo import CoherentPolicy, SampledPolicy
from carl_runtime_min.guards import correlation, nan_is_infinite
from carl_runtime_min.run import read_json
from tests import tiny, trainers
from tests.trainers import Crash, logged, lower, run_dir, same_weights

SETTINGS = {"result": "model", "non_finite": "skip"}


def found(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "non_finite.jsonl").read_text().splitlines()
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
    return [{k: v for k, v in row.items() if k != "chain"} for row in rows]


def breaking(trainer: Any, step: int, what: str) -> None:
    """From now on the loss, or a gradient, of this step is not finite."""
    compute = trainer.compute_loss

    def loss(*args: Any, **kwargs: Any) -> Any:
        value = compute(*args, **kwargs)
        if trainer.state.global_step + 1 != step:
            return value
        if what == "the loss":  # the gradients stay as they are
            return value + torch.tensor(math.nan)
        weight = next(x for x in trainer.model.parameters() if x.requires_grad)
        return value + (weight.sum() * 0).sqrt()  # 0, whose slope is infinite

    trainer.compute_loss = loss


class Kept(Observer):
    """Notes weights and the optimizer's state after each step."""

    def __init__(self, trainer: Any) -> None:
        self.trainer, self.seen = trainer, {}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        weights = [x.detach().clone() for x in self.trainer.model.parameters()]
        moments = self.trainer.optimizer.state_dict()["state"]
        flat = [x.clone() for one in moments.values() for x in one.values()]
        self.seen[state.global_step] = weights + flat


def sft(folder: Path, step: int, what: str, *more: Any, **given: Any) -> Any:
    gate = PhaseTransitionGate(threshold=2.0)
    options = {"max_steps": 4, "save_steps": 1, "weight_decay": 0.1, **given}
    trainer, watch = trainers.sft(folder, gate, **options)
    breaking(trainer, step, what)
    kept = Kept(trainer)
    run = run_dir(folder, "sft")
    settings = SETTINGS if not more else {**SETTINGS, "non_finite": more[0]}
    fit(trainer, run, settings, {"gate": gate}, [watch, kept, *more[1:]])
    return trainer, kept.seen


@pytest.mark.parametrize("what", ["the loss", "the gradient"])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_step_that_is_skipped_changes_neither_weights_nor_optimizer(
    tmp_path: Path, what: str, accumulated: int
) -> None:
    given = {"gradient_accumulation_steps": accumulated}
    trainer, seen = sft(tmp_path, 2, what, **given)
    pairs = list(zip(seen[1], seen[2], strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert any(not torch.equal(a, b) for a, b in zip(seen[2], seen[3], strict=True))
    assert all(x.isfinite().all() for x in trainer.model.parameters())
    assert found(tmp_path) == [{"phase": "sft", "step": 2, "what": what}]
    assert logged(trainer, "skipped_steps")[:3] == [1, 1, 1]  # from step 2 on
    assert read_json(tmp_path / "summary.json")["sft_skipped_steps"] == 1


@pytest.mark.parametrize("what", ["the loss", "the gradient"])
def test_a_run_stops_before_the_update_by_default(tmp_path: Path, what: str) -> None:
    with pytest.raises(CarlError, match=f"^{what} is not finite in step 3$") as stop:
        sft(tmp_path, 3, what, "stop")
    assert "non_finite: skip" in stop.value.remedy
    assert stop.value.exit_code == 70
    names = {x.name for x in tmp_path.glob("checkpoints/sft/checkpoint-*")}
    assert names == {"checkpoint-1", "checkpoint-2"}
    assert [row["step"] for row in found(tmp_path)] == [3]


def test_a_run_that_skipped_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    whole, _ = sft(tmp_path / "whole", 2, "the loss")
    folder = tmp_path / "parts"
    with pytest.raises(KeyboardInterrupt):
        sft(folder, 2, "the loss", "skip", Crash(2))
    parts, _ = sft(folder, 2, "the loss")
    assert same_weights(whole.model, parts.model)
    assert parts.skipped == 1
    assert found(folder) == found(tmp_path / "whole")


@pytest.mark.parametrize("mixin", [SampledPolicy, CoherentPolicy])
@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_not_finite_is_named_with_its_sample(
    tmp_path: Path, mixin: type, broken: float
) -> None:
    """None is no such reward: it says that there is none."""
    values = [0.5, None, 0.1, 0.2, broken, 0.0, 1.0, 0.3]

    def score(completions: list[Any], **_: Any) -> list[Any]:
        return list(values)

    trainer = trainers.grpo(tmp_path, mixin, tasks=(lower, score), task_weights=(1, 1))
    with pytest.raises(CarlError, match="reward score of sample 4 is not finite in"):
        trainer.train()
    (row,) = found(tmp_path)
    assert (row["step"], row["reward"], row["sample"]) == (1, "score", 4)
    assert row["completion"][0]["role"] == "assistant"

    values[4] = None
    trainers.grpo(
        tmp_path / "fine", mixin, tasks=(lower, score), task_weights=(1, 1)
    ).train()


def test_every_kind_of_reward_function_is_looked_at() -> None:
    async def later(values: list[Any]) -> list[Any]:
        return values

    def now(values: list[Any]) -> Any:
        return values

    given = [None, 1.0, math.nan, 2]
    expected = [None, 1.0, math.inf, 2]
    assert nan_is_infinite(now)(values=given) == expected
    assert nan_is_infinite(now)(values=torch.tensor([0.5, math.nan]))[1] == math.inf
    assert nan_is_infinite(now).__name__ == "now"
    coroutine = nan_is_infinite(later)(values=given)
    with pytest.raises(StopIteration) as ended:
        coroutine.send(None)
    assert ended.value.value == expected


def test_correlation_is_pearsons_of_what_is_known() -> None:
    torch.manual_seed(0)
    x, y = torch.randint(1, 50, (64,)), torch.randn(64)
    assert correlation(x, y) == pytest.approx(
        statistics.correlation(x.tolist(), y.tolist()), abs=1e-6
    )
    y[3] = math.nan
    known = [i for i in range(64) if i != 3]
    expected = statistics.correlation(x[known].tolist(), y[known].tolist())
    assert correlation(x, y) == pytest.approx(expected, abs=1e-6)
    assert correlation(x, torch.full((64,), 0.1)) is None
    assert correlation(x, torch.full((64,), math.nan)) is None
    assert correlation(x[:0], y[:0]) is None


@pytest.mark.parametrize("method", ["GRPO", "RLOO"])
def test_the_log_shows_saturation_ties_and_what_length_explains(
    tmp_path: Path, method: str
) -> None:
    lengths: list[float] = []

    def longer(completion_ids: list[Any], **_: Any) -> list[float]:
        lengths[:] = [float(len(row)) for row in completion_ids]
        return [min(1.0, n / 12) for n in lengths]

    trainer = trainers.grpo(
        tmp_path,
        tasks=(longer,),
        method=method,
        model=tiny.model(),
        cascade={"carl_start": 1000},
        max_steps=1,
    )
    trainer.record_in(run_dir(tmp_path), 1000, 1.0)
    trainer.train()
    assert len(set(lengths)) > 1
    share = sum(n >= 12 for n in lengths) / 8
    assert logged(trainer, "rewards/saturated") == [share]
    assert logged(trainer, "rewards/length_correlation") == [pytest.approx(1.0)]
    name = "rewards/longer/length_correlation"
    assert logged(trainer, name) == [pytest.approx(1.0)]
    assert logged(trainer, "rewards/carl/length_correlation") == [None]  # stage A
    groups = [set(lengths[:4]), set(lengths[4:])]
    ties = sum(len(group) == 1 for group in groups) / 2
    assert logged(trainer, "frac_reward_zero_std") == [ties]
    assert logged(trainer, "rewards/tied_groups") == [ties]


def test_in_stage_b_the_log_shows_how_r_carl_depends_on_the_length(
    tmp_path: Path,
) -> None:
    def form(completions: list[Any], **_: Any) -> list[float | None]:
        return [0.5, 0.5, None, 0.5, 0.1, 0.2, 0.3, 0.4]

    trainer = trainers.grpo(tmp_path, max_steps=1, tasks=(form,))
    trainer.train()
    assert logged(trainer, "rewards/tied_groups") == [0.5]
    assert logged(trainer, "frac_reward_zero_std") == [0.0]
    tokens = torch.tensor([float(len(row)) for row in trainer.completion_ids])
    expected = correlation(tokens, trainer.rewards[:, -1])
    name = "rewards/carl/length_correlation"
    assert logged(trainer, name) == [pytest.approx(expected)]
    assert abs(expected or 0) > 0.1
