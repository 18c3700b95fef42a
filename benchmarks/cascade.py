"""How often, and when, cascade and plateau gate fire on simulated curves.

python -m benchmarks.cascade
"""

from __future__ import annotations

import random
import statistics
import sys
from collections.abc import Callable

from benchmarks.measure import Row, report
from carl_runtime_min.cascade import Cascade
from carl_runtime_min.gate import PlateauGate
from tests import curves
from tests.curves import Curve

RUNS = 300
NOT_LEARNING: dict[str, Curve] = {
    "noise N(.3, .1)": curves.noise,
    "rate of 8 samples": curves.rate(8),
    "rate of 64 samples": curves.rate(64),
    "noisy decline": curves.decline,
    "constant 0": curves.constant(0.0),
    "constant .3": curves.constant(0.3),
}
LEARNING: dict[str, Curve] = {
    "noisy sigmoid around 150": curves.sigmoid,
    "noisy rise .1 to .6": curves.rise,
    "zeros, rising from 100": curves.zeros_then_rise,
}
SOLVED: dict[str, Curve] = {
    "plateau at .95": curves.plateau,
    "constant 1": curves.constant(1.0),
}
WANDERING: dict[str, Curve] = {"wandering, AR(1) .9": curves.wandering}
PLATEAUS: dict[str, Curve] = {
    "saturates at 90, scatter .002": curves.saturating(0.002),
    "saturates at 90, scatter .02": curves.saturating(0.02),
    "climbs for ever, scatter .002": curves.climbing(0.002),
    "climbs for ever, scatter .02": curves.climbing(0.02),
    **NOT_LEARNING,
}


def cascade_opens(values: list[float]) -> int | None:
    """The observation at which the adaptive cascade decides to open."""
    cascade = Cascade(maximum=1.0)
    for step, value in enumerate([*values, None], 1):
        cascade.observe(value, step)
    return cascade.opened_at and cascade.opened_at - 1


def earlier_rule_opens(values: list[float]) -> int | None:
    """The rule of CARL Studio: 3 of the last 5 at the running 60th percentile."""
    for n in range(5, len(values) + 1):
        level = sorted(values[:n])[min(int(n * 0.6), n - 1)]
        if level > 0 and sum(x >= level and x > 0 for x in values[n - 5 : n]) >= 3:
            return n
    return None


def plateau_fires(values: list[float]) -> int | None:
    """The observation at which the plateau gate fires."""
    gate = PlateauGate()
    for value in values:
        gate.check(value)
    return gate.step


def simulate(
    title: str, rule: Callable[[list[float]], int | None], cases: dict[str, Curve]
) -> dict[str, tuple[float, float]]:
    """Print and return {curve: (share of runs that fire, median observation)}."""
    found = {}
    print(f"{title:<50}fires   median observation")
    for name, make in cases.items():
        steps = [rule(make(random.Random(seed))) for seed in range(RUNS)]
        fired = [step for step in steps if step is not None]
        middle = statistics.median(fired) if fired else float("nan")
        found[name] = len(fired) / RUNS, middle
        print(f"  {name:<47}{len(fired) / RUNS:6.1%}{middle:12.0f}")
    return found


def rows() -> list[Row]:
    cases = NOT_LEARNING | LEARNING | SOLVED | WANDERING
    opens = simulate("adaptive cascade", cascade_opens, cases)
    simulate("rule of the earlier release", earlier_rule_opens, NOT_LEARNING | LEARNING)
    simulate("plateau gate", plateau_fires, PLATEAUS)
    falsely = max(opens[name][0] for name in NOT_LEARNING)
    rightly = min(opens[name][0] for name in LEARNING | SOLVED)
    at = max(opens[name][1] for name in SOLVED)
    return [
        Row("cascade opens where nothing is learned", falsely, 0.1, form=".1%"),
        Row(
            "cascade opens where something is learned or solved",
            rightly,
            1.0,
            least=True,
            form=".1%",
        ),
        Row("observation at which it opens where all is solved", at, 10),
    ]


if __name__ == "__main__":
    sys.exit(report(rows()))
