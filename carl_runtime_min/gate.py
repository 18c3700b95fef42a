"""Phase gates: watch a metric and fire, once, when a phase has done its work.

A gate's attributes are JSON values, and `vars(gate)` is its whole state: a checkpoint
keeps it, and `vars(gate).update(state)` continues from there.
"""

from __future__ import annotations

import dataclasses
import math
import statistics

from carl_runtime_min.errors import UsageError


@dataclasses.dataclass(kw_only=True)
class Gate:
    """Fires once, at the first value at which it is `crossed`."""

    values: list[float] = dataclasses.field(default_factory=list)
    fired: bool = False
    step: int | None = None  # at which it fired
    peak_entropy: float | None = None  # nats, the highest until then

    def check(
        self, value: float | None, entropy: float | None = None, step: int | None = None
    ) -> bool:
        """Take in one value; True at the one observation that fires the gate.

        None and what is not finite are no observations. `step`: default, their number.
        """
        if self.fired or value is None or not math.isfinite(value):
            return False
        self.values.append(float(value))
        if entropy is not None and math.isfinite(entropy):
            self.peak_entropy = max(entropy, self.peak_entropy or entropy)
        self.fired = self.crossed()
        if self.fired:
            self.step = len(self.values) if step is None else step
        return self.fired

    def crossed(self) -> bool:
        """Whether the values so far fire the gate."""
        raise NotImplementedError


@dataclasses.dataclass
class PhaseTransitionGate(Gate):
    """Fires when `min_above` of the last `window` values reach `threshold`."""

    threshold: float = 0.99
    window: int = 5
    min_above: int = 3

    def __post_init__(self) -> None:
        if not (math.isfinite(self.threshold) and 1 <= self.min_above <= self.window):
            raise UsageError(
                "a gate needs a finite threshold, 1 <= min_above <= window"
            )

    def crossed(self) -> bool:
        last = self.values[-self.window :]
        return sum(value >= self.threshold for value in last) >= self.min_above


@dataclasses.dataclass
class PlateauGate(Gate):
    """Fires when the metric has risen and no longer rises visibly, at whatever level.

    From the 40th value on: the mean of the last 10 exceeds the 60th percentile of the
    first half, and does not exceed the mean of the 10 before by the standard error of
    that difference. Values that never moved do not fire it; noise soon does.
    """

    def crossed(self) -> bool:
        if len(self.values) < 40:
            return False
        half = self.values[: len(self.values) // 2]
        before, last = self.values[-20:-10], self.values[-10:]
        level = statistics.fmean(last)
        rise = level - statistics.fmean(before)
        error = math.sqrt(
            (statistics.variance(before) + statistics.variance(last)) / 10
        )
        return level > percentile(half, 0.6) and (rise < error or rise <= 0)


def percentile(values: list[float], q: float) -> float:
    """The q-th quantile (q in [0, 1]) of `values`, linear between order statistics."""
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    below, above = ordered[math.floor(position)], ordered[math.ceil(position)]
    return below + position % 1 * (above - below)
