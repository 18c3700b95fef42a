"""When CARL joins the task rewards, with what weight, and what it may do to ties."""

from __future__ import annotations

import json
import math
import random
import statistics
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from carl_runtime_min.cascade import Cascade, damp_ties
from carl_runtime_min.errors import UsageError
from tests import curves, reference
from tests.curves import Curve

NAN = math.nan


def run(cascade: Cascade, metrics: list[float | None], start: int = 1) -> str:
    """The stage of each generation, one a step, as each computes its CARL reward."""
    stages = ""
    for step, metric in enumerate(metrics, start):
        cascade.observe(metric, step)
        stages += cascade.stage
    return stages


levels = st.sampled_from([0.0, 0.2, 0.5, 0.89, 0.9, 0.95, 1.0])
metrics = st.one_of(levels, st.none(), st.just(NAN))
stretches = st.lists(st.tuples(metrics, st.integers(1, 12)), min_size=1, max_size=8)


@given(stretches, st.sampled_from([None, 1.0, 0.5, 0.0, -1.0]))
@example([(0.1, 10), (0.2, 9), (0.2, 2)], None)
@example([(1.0, 9), (None, 5), (1.0, 2)], 1.0)
@example([(-1.1, 12)], -1.0)
@example([(0.2, 10), (0.5, 10), (0.5, 2)], 1.0)
def test_adaptive_rule_agrees_with_the_reference(
    parts: list[tuple[float | None, int]], maximum: float | None
) -> None:
    values = [value for value, times in parts for _ in range(times)]
    cascade = Cascade(maximum=maximum)
    stages = run(cascade, [*values, None])
    decided = reference.first_opening(values, maximum)
    if decided is None:
        assert set(stages) == {"A"}
        assert (cascade.opened_at, cascade.reason) == (None, None)
    else:
        number, reason = decided
        assert stages == "A" * number + "B" * (len(stages) - number)
        assert (cascade.opened_at, cascade.reason) == (number + 1, reason)


def test_rising_needs_twenty_observations_and_all_of_the_last_ten() -> None:
    low, high = [0.1] * 10, [0.2] * 10
    assert run(Cascade(), [*low, *high, 0.0]) == "A" * 20 + "B"
    assert run(Cascade(), [*low, *high[:9], 0.1, 0.0]) == "A" * 21
    assert run(Cascade(), [*low[:9], *high, 0.0]) == "A" * 20


def test_the_threshold_leaves_the_last_ten_out_and_must_be_exceeded() -> None:
    history = [0.25] * 6 + [0.0] * 2 + [0.9] * 2  # 60th percentile: 0.25
    assert run(Cascade(), [*history, *[0.25] * 10, 0.0]) == "A" * 21
    above = Cascade()
    assert run(above, [*history, *[0.2500001] * 10]) == "A" * 20
    assert above.threshold == 0.25
    above.begin(21)
    assert (above.stage, above.reason) == ("B", "rising")
    between = Cascade()
    run(between, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9] + [0.5] * 10)
    assert between.threshold == pytest.approx(0.54)


def test_there_is_no_threshold_before_twenty_observations() -> None:
    cascade = Cascade()
    run(cascade, [0.5] * 19)
    assert cascade.threshold is None
    cascade.observe(0.5, 20)
    assert cascade.threshold == 0.5


def test_the_threshold_stays_as_it_was_at_the_decision() -> None:
    cascade = Cascade()
    run(cascade, [0.1] * 10 + [0.2] * 10 + [0.9] * 50)
    assert (cascade.threshold, len(cascade.history)) == (0.1, 20)


def test_solved_is_ten_in_a_row_within_a_tenth_of_the_maximum() -> None:
    assert run(Cascade(maximum=2.0), [1.8] * 10 + [0.0]) == "A" * 10 + "B"
    assert run(Cascade(maximum=2.0), [1.8] * 9 + [1.79] + [0.0]) == "A" * 11
    assert run(Cascade(maximum=2.0), [0.0] + [1.9] * 10 + [0.0]) == "A" * 11 + "B"
    assert run(Cascade(), [1.0] * 300) == "A" * 300
    below_zero = Cascade(maximum=-1.0)
    assert run(below_zero, [-1.1] * 11) == "A" * 10 + "B"
    assert below_zero.reason == "solved"


def test_a_decision_applies_from_the_next_generation_whatever_its_step() -> None:
    cascade = Cascade(maximum=1.0)
    run(cascade, [1.0] * 10)
    assert (cascade.stage, cascade.opened_at, cascade.reason) == ("A", None, "solved")
    cascade.begin(14)
    assert (cascade.stage, cascade.opened_at, cascade.reason) == ("B", 14, "solved")
    cascade.begin(15)
    cascade.observe(0.0, 16)
    assert cascade.opened_at == 14


@pytest.mark.parametrize("nothing", [None, NAN, math.inf])
def test_what_is_not_a_number_is_no_observation(nothing: float | None) -> None:
    cascade = Cascade(maximum=1.0)
    assert run(cascade, [1.0] * 9 + [nothing] * 30) == "A" * 39
    assert run(cascade, [1.0, nothing], 40) == "AB"


def test_fixed_starts_at_its_step_and_ignores_the_metric() -> None:
    cascade = Cascade(carl_start=5, maximum=1.0)
    assert run(cascade, [1.0] * 4 + [None] * 2) == "AAAABB"
    assert (cascade.opened_at, cascade.reason) == (5, "fixed")
    assert (cascade.history, cascade.threshold) == ([], None)
    from_the_first = Cascade(carl_start=0)
    assert run(from_the_first, [None], 0) == "B"
    between_generations = Cascade(carl_start=5)
    between_generations.begin(4)
    between_generations.begin(8)
    assert between_generations.opened_at == 8


def test_fixed_takes_no_notice_of_open_by() -> None:
    assert run(Cascade(carl_start=4, open_by=2), [0.0] * 4) == "AAAB"


def test_open_by_forces_stage_b_at_the_latest() -> None:
    cascade = Cascade(open_by=30)
    assert run(cascade, [0.3] * 31) == "A" * 29 + "BB"
    assert (cascade.opened_at, cascade.reason) == (30, "open_by")
    assert run(Cascade(open_by=0), [0.3], 0) == "B"
    sooner = Cascade(open_by=30, maximum=1.0)
    assert run(sooner, [1.0] * 11) == "A" * 10 + "B"
    assert sooner.reason == "solved"
    on_the_step = Cascade(open_by=11, maximum=1.0)
    run(on_the_step, [1.0] * 11)
    assert on_the_step.reason == "solved"


def test_nothing_has_happened_at_first() -> None:
    cascade = Cascade()
    assert (cascade.stage, cascade.opened_at, cascade.reason) == ("A", None, None)
    assert (cascade.threshold, cascade.weight(100)) == (None, 0.0)
    assert (cascade.carl_weight, cascade.warmup_steps) == (0.5, 10)


def test_the_weight_ramps_linearly_from_the_opening() -> None:
    cascade = Cascade(carl_weight=0.5, warmup_steps=10, carl_start=100)
    cascade.begin(99)
    assert cascade.weight(150) == 0.0
    cascade.begin(100)
    assert cascade.weight(99) == 0.0
    assert cascade.weight(50) == 0.0
    ramp = [cascade.weight(step) for step in range(100, 113)]
    want = [0.05 * i for i in range(1, 11)] + [0.5] * 3
    assert ramp == pytest.approx(want, abs=1e-15)
    assert ramp[9:] == [0.5] * 4


def test_a_ramp_of_one_step_is_no_ramp() -> None:
    cascade = Cascade(warmup_steps=1, carl_start=0)
    cascade.begin(0)
    assert cascade.weight(0) == 0.5


@pytest.mark.parametrize(
    "arguments",
    [
        {"carl_weight": 0.0},
        {"carl_weight": -1.0},
        {"carl_weight": math.inf},
        {"carl_weight": NAN},
        {"warmup_steps": 0},
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="positive carl_weight and warmup_steps"):
        Cascade(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("cut", [0, 5, 19, 20, 21, 40])
@pytest.mark.parametrize(
    "arguments", [{}, {"carl_start": 6}, {"open_by": 20}, {"maximum": 0.1}]
)
def test_a_resumed_cascade_goes_on_as_if_never_stopped(
    arguments: dict[str, Any], cut: int
) -> None:
    values: list[float | None] = [0.1] * 10 + [0.2] * 40
    whole, before, after = (Cascade(**arguments) for _ in range(3))
    run(after, [0.7] * 3)  # forgotten on loading
    stages = run(whole, values)
    first = run(before, values[:cut])
    vars(after).update(json.loads(json.dumps(vars(before), allow_nan=False)))
    assert first + run(after, values[cut:], cut + 1) == stages
    assert vars(after) == vars(whole)
    assert whole.weight(51) == 0.5


RUNS = 60


def decisions(make: Curve) -> list[int]:
    """The observations at which the cascade decided to open, in RUNS seeded runs."""
    found = []
    for seed in range(RUNS):
        cascade = Cascade(maximum=1.0)
        run(cascade, [*make(random.Random(seed)), None])
        if cascade.opened_at is not None:
            found.append(cascade.opened_at - 1)
    return found


@pytest.mark.parametrize(
    "make",
    [
        curves.noise,
        curves.rate(8),
        curves.rate(64),
        curves.decline,
        curves.constant(0.0),
        curves.constant(0.3),
    ],
)
def test_it_seldom_opens_on_what_is_no_learning(make: Curve) -> None:
    assert len(decisions(make)) <= 0.1 * RUNS


@pytest.mark.parametrize(
    ("make", "median"),
    [(curves.sigmoid, 124), (curves.rise, 105), (curves.zeros_then_rise, 111)],
)
def test_it_opens_on_learning(make: Curve, median: int) -> None:
    steps = decisions(make)
    assert len(steps) == RUNS
    assert statistics.median(steps) == pytest.approx(median, abs=15)


@pytest.mark.parametrize("make", [curves.plateau, curves.constant(1.0)])
def test_it_opens_at_once_on_a_solved_task(make: Curve) -> None:
    assert decisions(make) == [10] * RUNS


def normalised(rewards: torch.Tensor, group: int) -> torch.Tensor:
    grouped = rewards.view(-1, group)
    centred = grouped - grouped.mean(-1, keepdim=True)
    return (centred / (grouped.std(-1, keepdim=True) + 1e-4)).flatten()


def test_only_tied_groups_are_damped() -> None:
    advantages = torch.arange(1.0, 13.0)
    tasks = torch.tensor([1.0, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 0])
    damped = damp_ties(advantages, tasks[:, None], 4, 0.25)
    assert torch.equal(damped[4:8], advantages[4:8])
    assert torch.equal(damped[:4], advantages[:4] / 4)
    assert torch.equal(damped[8:], advantages[8:] / 4)


def test_the_advantages_of_a_tie_grow_linearly_over_the_ramp() -> None:
    cascade = Cascade(carl_start=0)
    cascade.begin(0)
    carl = torch.rand(8, generator=torch.Generator().manual_seed(0))
    tasks, norms = torch.ones(8), []
    for step in range(12):
        total = tasks + cascade.weight(step) * carl
        factor = cascade.weight(step) / cascade.carl_weight * 0.5
        advantages = normalised(total, 8)
        norms.append(damp_ties(advantages, tasks[:, None], 8, factor).norm().item())
        assert advantages.norm() == pytest.approx(math.sqrt(7), rel=0.02)
    relative = [norm / norms[-1] for norm in norms]
    want = [min(1.0, (step + 1) / 10) for step in range(12)]
    assert relative == pytest.approx(want, rel=0.02)
    assert norms[-1] == pytest.approx(0.5 * math.sqrt(7), rel=0.01)


def test_a_group_is_tied_when_each_of_its_columns_is() -> None:
    tasks = torch.tensor([[1, 0.2], [1, 0.2], [1, 0.2], [1, 0.3], [0, 1.0], [1, 0.0]])
    damped = damp_ties(torch.ones(6), tasks, 2, 0.5)
    assert damped.tolist() == [0.5, 0.5, 1, 1, 1, 1]


def test_rows_without_a_task_reward_are_left_out_of_the_comparison() -> None:
    tasks = torch.tensor(
        [[1.0], [NAN], [1.0], [0.0], [NAN], [0.0], [0.5], [NAN], [1.0]]
    )
    damped = damp_ties(torch.ones(9), tasks, 3, 0.5)
    assert damped.tolist() == [0.5] * 6 + [1.0] * 3
    one_of_two = torch.tensor([[1.0, NAN], [1.0, 0.5], [1.0, NAN], [0.0, 0.5]])
    assert damp_ties(torch.ones(4), one_of_two, 2, 0.5).tolist() == [0.5, 0.5, 1, 1]
    one_column = torch.tensor([[NAN, 1.0], [NAN, 1.0], [NAN, 1.0], [NAN, 0.0]])
    assert damp_ties(torch.ones(4), one_column, 2, 0.5).tolist() == [0.5, 0.5, 1, 1]
    nobody = torch.full((2, 1), NAN)
    assert damp_ties(torch.zeros(2), nobody, 2, 0.5).tolist() == [0.0, 0.0]


def test_rounding_does_not_hide_a_tie() -> None:
    tasks = torch.tensor([0.1 + 0.2, 0.3, 100.0, 100.00001, 1.0, 1.0001])
    damped = damp_ties(torch.ones(6), tasks[:, None], 2, 0.5)
    assert damped.tolist() == [0.5, 0.5, 0.5, 0.5, 1.0, 1.0]
    for near in ([1, 1 + 1.05e-6, 1, 1 + 0.95e-6], [0.0, 1e-6, 0.0, 1e-10]):
        tasks = torch.tensor(near, dtype=torch.float64)[:, None]
        damped = damp_ties(torch.ones(4), tasks, 2, 0.5)
        assert damped.tolist() == [1.0, 1.0, 0.5, 0.5]


def test_a_factor_of_one_changes_nothing() -> None:
    advantages, tasks = torch.randn(8), torch.zeros(8, 1)
    kept = advantages.clone()
    assert torch.equal(damp_ties(advantages, tasks, 4, 1.0), kept)
    damp_ties(advantages, tasks, 4, 0.1)
    assert torch.equal(advantages, kept)
