"""Phase gates: watch a metric and fire, once, when a phase has done its work."""

from __future__ import annotations

import math
import statistics
from collections import deque
from typing import Any

from carl_runtime_min.errors import UsageError


def percentile(values: list[float], q: float) -> float:
    """The q-th quantile (q in [0, 1]) of `values`, linear between order statistics."""
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    below, above = ordered[math.floor(position)], ordered[math.ceil(position)]
    return below + position % 1 * (above - below)


class Gate:
    """A gate that fires once. What makes it fire is `crossed`, of each kind.

    Args:
        keep: How many of the latest values it stores, None for all.

    Attributes:
        fired: Whether it has fired.
        step: The step at which it fired, else None.
        peak_entropy: The highest entropy seen up to then, nats, None without any.
    """

    def __init__(self, keep: int | None) -> None:
        self.values: deque[float] = deque(maxlen=keep)
        self.observed = 0
        self.fired = False
        self.step: int | None = None
        self.peak_entropy: float | None = None

    def check(
        self, value: float | None, entropy: float | None = None, step: int | None = None
    ) -> bool:
        """Take in one value; True at the one observation that fires the gate.

        A value that is None or not finite is no observation, and nothing is taken in
        after the gate has fired. `step` defaults to the number of observations.
        """
        if self.fired or value is None or not math.isfinite(value):
            return False
        self.values.append(float(value))
        self.observed += 1
        if entropy is not None and math.isfinite(entropy):
            peak = self.peak_entropy
            self.peak_entropy = entropy if peak is None else max(peak, entropy)
        self.fired = self.crossed()
        if self.fired:
            self.step = self.observed if step is None else step
        return self.fired

    def crossed(self) -> bool:
        """Whether the stored values fire the gate."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON values."""
        return {
            "values": list(self.values),
            "observed": self.observed,
            "fired": self.fired,
            "step": self.step,
            "peak_entropy": self.peak_entropy,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the `state_dict()` of a gate with the same arguments."""
        self.values.clear()
        self.values.extend(state["values"])
        self.observed, self.fired = state["observed"], state["fired"]
        self.step, self.peak_entropy = state["step"], state["peak_entropy"]


class PhaseTransitionGate(Gate):
    """Fires when `min_above` of the last `window` values are at least `threshold`.

    It does not wait for the window to fill.

    Raises:
        UsageError: `threshold` is not finite, or `min_above` not in [1, window].
    """

    def __init__(
        self, threshold: float = 0.99, window: int = 5, min_above: int = 3
    ) -> None:
        if not math.isfinite(threshold):
            raise UsageError(f"the gate's threshold must be finite, not {threshold}")
        if not 1 <= min_above <= window:
            raise UsageError(
                f"the gate's min_above must be from 1 to its window of {window}, "
                f"not {min_above}"
            )
        super().__init__(keep=window)
        self.threshold, self.min_above = threshold, min_above

    def crossed(self) -> bool:
        """Whether the stored values fire the gate."""
        return sum(value >= self.threshold for value in self.values) >= self.min_above


class PlateauGate(Gate):
    """Fires when the metric has risen and no longer rises visibly, at whatever level.

    From the 40th value on: the mean of the last 10 exceeds the 60th percentile of the
    first half, and does not exceed the mean of the 10 before by the standard error of
    that difference. Values that never moved do not fire it; values that merely scatter
    soon do.
    """

    def __init__(self) -> None:
        super().__init__(keep=None)

    def crossed(self) -> bool:
        """Whether the stored values fire the gate."""
        if self.observed < 40:
            return False
        values = list(self.values)
        half, before, last = values[: len(values) // 2], values[-20:-10], values[-10:]
        level = statistics.fmean(last)
        rise = level - statistics.fmean(before)
        error = math.sqrt(
            (statistics.variance(before) + statistics.variance(last)) / 10
        )
        return level > percentile(half, 0.6) and (rise < error or rise <= 0)
