"""When the gates of a phase fire, and that they fire once."""

from __future__ import annotations

import json
import math
import random

import pytest

from carl_runtime_min.errors import UsageError
from carl_runtime_min.gate import Gate, PhaseTransitionGate, PlateauGate, percentile
from tests import reference


def fired_at(gate: Gate, values: list[float | None]) -> list[int]:
    """The 1-based observations at which `check` was true."""
    return [i for i, value in enumerate(values, 1) if gate.check(value, step=i)]


def test_defaults_are_three_of_five_at_099() -> None:
    assert fired_at(PhaseTransitionGate(), [0.99] * 9) == [3]
    assert fired_at(PhaseTransitionGate(), [0.98999] * 9) == []
    assert fired_at(PhaseTransitionGate(), [1.0, 0, 1.0, 0, 1.0]) == [5]
    assert fired_at(PhaseTransitionGate(), [1.0, 0, 0, 0, 1.0, 1.0, 0]) == []
    assert fired_at(PhaseTransitionGate(), [1.0, 0, 0, 0, 1.0, 1.0, 1.0]) == [7]
    assert fired_at(PhaseTransitionGate(), [1.0, 1.0, 0, 0, 0, 1.0, 0.0]) == []


def test_it_may_fire_before_the_window_is_full() -> None:
    gate = PhaseTransitionGate(threshold=0.5, window=100, min_above=2)
    assert fired_at(gate, [0.5, 0.5]) == [2]


def test_it_fires_once_and_takes_in_nothing_more() -> None:
    gate = PhaseTransitionGate(threshold=0.5, window=3, min_above=1)
    assert fired_at(gate, [0.1, 0.6, 0.9, 0.9]) == [2]
    assert (gate.fired, gate.step) == (True, 2)
    gate.check(1.0, entropy=99.0, step=50)
    assert (gate.step, gate.peak_entropy) == (2, None)


@pytest.mark.parametrize("nothing", [None, math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_is_no_observation(nothing: float | None) -> None:
    gate = PhaseTransitionGate(threshold=-1e308, min_above=1)
    assert not gate.check(nothing, entropy=9.0, step=7)


def test_missing_values_do_not_push_others_out_of_the_window() -> None:
    gate = PhaseTransitionGate(window=3, min_above=3)
    assert fired_at(gate, [1.0, None, 1.0, math.nan, None, 1.0]) == [6]
    gate = PhaseTransitionGate()
    gate.check(None, entropy=9.0)
    assert (gate.fired, gate.peak_entropy) == (False, None)


def test_the_step_defaults_to_the_number_of_observations() -> None:
    gate = PhaseTransitionGate(min_above=2)
    for value in (0.0, None, 1.0, 1.0):
        gate.check(value)
    assert gate.step == 3
    gate = PhaseTransitionGate(min_above=1)
    gate.check(1.0, step=0)
    assert gate.step == 0


def test_peak_entropy_is_the_highest_up_to_the_firing_observation() -> None:
    gate = PhaseTransitionGate(min_above=1)
    for value, entropy in [(0.1, 1.5), (0.2, 2.5), (0.3, None), (0.4, math.nan)]:
        gate.check(value, entropy)
    gate.check(0.5, 0.7)
    assert gate.peak_entropy == 2.5
    gate.check(1.0, 3.5)
    assert (gate.fired, gate.peak_entropy) == (True, 3.5)
    lowest = PhaseTransitionGate()
    lowest.check(0.1, -1e-8)
    assert lowest.peak_entropy == -1e-8


@pytest.mark.parametrize("gate", [PhaseTransitionGate(), PlateauGate()])
def test_nothing_has_happened_at_first(gate: Gate) -> None:
    assert (gate.fired, gate.step, gate.peak_entropy) == (False, None, None)


@pytest.mark.parametrize(
    "arguments",
    [
        {"threshold": math.nan},
        {"threshold": math.inf},
        {"window": 0, "min_above": 0},
        {"min_above": 0},
        {"window": 5, "min_above": 6},
    ],
)
def test_arguments_that_make_no_gate_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="finite threshold, 1 <= min_above <= window"):
        PhaseTransitionGate(**arguments)  # type: ignore[arg-type]


def test_the_extreme_arguments_that_do() -> None:
    assert fired_at(PhaseTransitionGate(-2.0, 1, 1), [-3.0, -2.0]) == [2]
    assert fired_at(PhaseTransitionGate(0.5, 5, 5), [0.5] * 5) == [5]


def curve(length: int = 120) -> list[float]:
    """A rise that saturates, with a little noise."""
    noise = random.Random(3)
    return [
        0.8 - 0.6 * math.exp(-t / 20) + noise.gauss(0, 0.004) for t in range(length)
    ]


@pytest.mark.parametrize("kind", [lambda: PhaseTransitionGate(0.75), PlateauGate])
@pytest.mark.parametrize("cut", [0, 1, 30, 45, 200])
def test_a_resumed_gate_goes_on_as_if_never_stopped(kind: type[Gate], cut: int) -> None:
    whole, before, after = kind(), kind(), kind()
    values = curve()
    for gate, part in ((whole, values), (before, values[:cut])):
        for value in part:
            gate.check(value, entropy=1 - value)
    after.check(0.123, entropy=77.0)  # forgotten on loading
    vars(after).update(json.loads(json.dumps(vars(before), allow_nan=False)))
    for value in values[cut:]:
        after.check(value, entropy=1 - value)
    assert vars(after) == vars(whole)
    assert whole.fired


def test_the_plateau_gate_waits_for_the_end_of_the_rise() -> None:
    steps = fired_at(PlateauGate(), curve())
    assert len(steps) == 1
    assert 60 <= steps[0] <= 110
    noise = random.Random(1)
    rising = [0.01 * t + noise.gauss(0, 0.002) for t in range(300)]
    assert fired_at(PlateauGate(), rising) == []


@pytest.mark.parametrize("seed", range(60))
def test_the_plateau_gate_agrees_with_the_reference(seed: int) -> None:
    draw = random.Random(seed)
    pace, scatter = draw.uniform(5, 60), draw.choice([0.001, 0.01, 0.05])
    fall = draw.choice([0.0, 0.0, 0.002])
    values = [
        1 - math.exp(-t / pace) - fall * t + draw.gauss(0, scatter) for t in range(150)
    ]
    want = reference.first_plateau(values)
    assert fired_at(PlateauGate(), list(values)) == ([] if want is None else [want])


@pytest.mark.parametrize("seed", range(60))
def test_the_plateau_gate_agrees_with_the_reference_on_noise(seed: int) -> None:
    draw = random.Random(seed)
    noise = [draw.gauss(0.3, 0.1) for _ in range(120)]
    want = reference.first_plateau(noise)
    assert fired_at(PlateauGate(), list(noise)) == ([] if want is None else [want])


def test_a_rise_of_exactly_its_standard_error_is_visible() -> None:
    assert fired_at(PlateauGate(), [0.0] * 40 + [1.0]) == []


def test_the_plateau_gate_needs_forty_values() -> None:
    risen = [0.0] * 10 + [1.0] * 100
    assert fired_at(PlateauGate(), risen[:39]) == []
    noise = random.Random(0)
    scattered = [0.1] * 20 + [0.9 + noise.gauss(0, 0.01) for _ in range(20)]
    scattered[25] = 5.0  # so that the last ten lie below the ten before
    assert fired_at(PlateauGate(), scattered) == [40]


def test_the_plateau_gate_fires_on_a_perfectly_flat_top() -> None:
    climb = [0.0] * 26 + [0.1 * t for t in range(10)]
    assert fired_at(PlateauGate(), climb + [1.0] * 100) == [len(climb) + 20]


def test_values_that_never_moved_or_fell_are_no_plateau() -> None:
    assert fired_at(PlateauGate(), [0.3] * 300) == []
    assert fired_at(PlateauGate(), [1 - 0.001 * t for t in range(300)]) == []


def test_percentile_interpolates_between_order_statistics() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([7.0], 0.6) == 7.0
    assert percentile([0.0, 10.0], 0.6) == pytest.approx(6.0)
    assert percentile([4.0, 1.0, 3.0, 2.0], 0.6) == pytest.approx(2.8)
    assert percentile([1.0, 2.0], 0.0) == 1.0
    assert percentile([1.0, 2.0], 1.0) == 2.0
