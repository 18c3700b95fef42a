"""The cascade: stage A trains on task rewards alone, stage B adds CARL.

Like a gate's, a cascade's attributes are JSON values, and `vars(cascade)` its state.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from carl_runtime_min.errors import UsageError
from carl_runtime_min.gate import percentile

LAST = 10  # observations that have to agree


@dataclasses.dataclass
class Cascade:
    """Decides when CARL joins the task rewards, and with what weight.

    Fixed with a `carl_start`. Else adaptive: it opens when the last 10 observations all
    exceed the 60th percentile of those before ("rising"), or all come within a tenth of
    `maximum` ("solved"). One generation's metric decides from the next one on.
    """

    carl_weight: float = 0.5  # of R_CARL after the ramp
    warmup_steps: int = 10  # of the linear ramp
    carl_start: int | None = None  # first step of stage B
    open_by: int | None = None  # first step of stage B at the latest
    maximum: float | None = None  # of the weighted task rewards' sum, if bounded
    history: list[float] = dataclasses.field(default_factory=list)
    threshold: float | None = None  # what the last 10 have or had to exceed
    reason: str | None = None  # "fixed", "rising", "solved" or "open_by"
    opened_at: int | None = None  # the step of the first generation in stage B

    def __post_init__(self) -> None:
        if not 0 < self.carl_weight < math.inf or self.warmup_steps < 1:
            raise UsageError("a cascade needs a positive carl_weight and warmup_steps")

    @property
    def stage(self) -> str:
        """ "A" (task rewards) or "B" (task rewards and CARL)."""
        return "A" if self.opened_at is None else "B"

    def begin(self, step: int) -> None:
        """A generation starts at `step`: what was decided before takes effect."""
        if self.carl_start is not None:
            self.reason = "fixed" if step >= self.carl_start else None
        elif self.open_by is not None and step >= self.open_by:
            self.reason = self.reason or "open_by"
        if self.reason and self.opened_at is None:
            self.opened_at = step

    def observe(self, metric: float | None, step: int) -> None:
        """Take in one generation's mean weighted task reward, before its CARL reward.

        It decides from the next generation on. None and what is not finite are no
        observations.
        """
        self.begin(step)
        if self.stage == "B" or self.carl_start is not None:
            return
        if metric is None or not math.isfinite(metric):
            return
        self.history.append(float(metric))
        earlier, last = self.history[:-LAST], self.history[-LAST:]
        if len(earlier) >= LAST:
            self.threshold = percentile(earlier, 0.6)
            if min(last) > self.threshold:
                self.reason = "rising"
        if self.maximum is not None and len(last) >= LAST:
            close = self.maximum - 0.1 * abs(self.maximum)
            if min(last) >= close:
                self.reason = "solved"

    def weight(self, step: int) -> float:
        """Weight of R_CARL: 0 in stage A, then a linear ramp, then `carl_weight`."""
        if self.opened_at is None:
            return 0.0
        done = (step - self.opened_at + 1) / self.warmup_steps
        return self.carl_weight * min(1.0, max(0.0, done))


def damp_ties(
    advantages: Tensor, task_rewards: Tensor, num_generations: int, factor: float
) -> Tensor:
    """Multiply the advantages [B] of groups whose task rewards [B, F] are all equal.

    Normalisation within a group gives CARL full-size advantages there, whatever its
    weight. The rows of a group are adjacent; NaN is no reward and takes no part.
    """
    groups = task_rewards.reshape(-1, num_generations, task_rewards.shape[-1])
    highest = groups.nan_to_num(nan=-math.inf).amax(1)  # [groups, F]
    lowest = groups.nan_to_num(nan=math.inf).amin(1)
    tied = (highest <= lowest) | torch.isclose(highest, lowest, rtol=1e-6)
    tied_rows = tied.all(1).repeat_interleave(num_generations)  # [B]
    return advantages.where(~tied_rows, advantages * factor)
