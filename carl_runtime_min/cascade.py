"""The cascade: stage A trains on task rewards alone, stage B adds CARL."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from carl_runtime_min.errors import UsageError
from carl_runtime_min.gate import percentile

LAST = 10  # observations that have to agree


class Cascade:
    """Decides when CARL joins the task rewards, and with what weight.

    With `carl_start` it is fixed: stage B from that step. Without, it is adaptive and
    opens when all of the last 10 observations exceed the 60th percentile of those
    before them ("rising", from the 20th on), or when 10 in a row come within a tenth
    of `maximum` ("solved"). A generation's own metric decides from the next one on.

    Args:
        carl_weight: Weight of R_CARL after the ramp.
        warmup_steps: Length of the linear ramp.
        carl_start: First step of stage B, for a fixed cascade.
        open_by: First step of stage B at the latest, for an adaptive one.
        maximum: The most the weighted task rewards can sum to, None if unbounded.

    Attributes:
        opened_at: The step of the first generation in stage B, else None.
        reason: "fixed", "rising", "solved" or "open_by", else None.
        threshold: The level that the last 10 observations had or have to exceed.
    """

    def __init__(
        self,
        carl_weight: float = 0.5,
        warmup_steps: int = 10,
        carl_start: int | None = None,
        open_by: int | None = None,
        maximum: float | None = None,
    ) -> None:
        if not (carl_weight > 0 and math.isfinite(carl_weight)):
            raise UsageError(f"carl_weight must be positive and finite: {carl_weight}")
        for name, value, least in (
            ("warmup_steps", warmup_steps, 1),
            ("carl_start", carl_start, 0),
            ("open_by", open_by, 0),
        ):
            if value is not None and value < least:
                raise UsageError(f"{name} must be at least {least}, not {value}")
        self.carl_weight, self.warmup_steps = carl_weight, warmup_steps
        self.carl_start, self.open_by, self.maximum = carl_start, open_by, maximum
        self.history: list[float] = []
        self.decision: str | None = None
        self.reason: str | None = None
        self.opened_at: int | None = None
        self.threshold: float | None = None

    @property
    def stage(self) -> str:
        """ "A" (task rewards) or "B" (task rewards and CARL)."""
        return "A" if self.opened_at is None else "B"

    def begin(self, step: int) -> None:
        """A generation starts at `step`: what was decided before takes effect."""
        if self.opened_at is not None:
            return
        if self.carl_start is not None:
            self.decision = "fixed" if step >= self.carl_start else None
        elif self.open_by is not None and step >= self.open_by:
            self.decision = self.decision or "open_by"
        if self.decision:
            self.reason, self.opened_at = self.decision, step

    def observe(self, metric: float | None, step: int) -> None:
        """Take in one generation's mean weighted task reward, before its CARL reward.

        Calls `begin(step)` first, so `stage` afterwards is this generation's. A metric
        that is None or not finite is no observation.
        """
        self.begin(step)
        adaptive = self.stage == "A" and self.carl_start is None
        if adaptive and metric is not None and math.isfinite(metric):
            self.history.append(float(metric))
            self.decide()

    def decide(self) -> None:
        """Apply the adaptive rule to the history."""
        earlier, last = self.history[:-LAST], self.history[-LAST:]
        if len(earlier) >= LAST:
            self.threshold = percentile(earlier, 0.6)
            if min(last) > self.threshold:
                self.decision = "rising"
        if self.maximum is not None and len(last) >= LAST:
            close = self.maximum - 0.1 * abs(self.maximum)
            if min(last) >= close:
                self.decision = "solved"

    def weight(self, step: int) -> float:
        """Weight of R_CARL: 0 in stage A, then the ramp, then `carl_weight`."""
        if self.opened_at is None:
            return 0.0
        done = (step - self.opened_at + 1) / self.warmup_steps
        return self.carl_weight * min(1.0, max(0.0, done))

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs, as JSON values."""
        return {
            "history": list(self.history),
            "decision": self.decision,
            "reason": self.reason,
            "opened_at": self.opened_at,
            "threshold": self.threshold,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()` of a cascade with the same arguments."""
        self.history = list(state["history"])
        self.decision, self.reason = state["decision"], state["reason"]
        self.opened_at, self.threshold = state["opened_at"], state["threshold"]


def damp_ties(
    advantages: Tensor,
    task_rewards: Tensor,
    num_generations: int,
    factor: float,
    weights: Tensor | None = None,
) -> Tensor:
    """Shrink the advantages of groups that the task rewards cannot tell apart.

    Normalisation within a group gives CARL full-size advantages there, whatever its
    weight. With factor = weight(step) / carl_weight * tie_weight the ramp holds in
    such groups too.

    Args:
        advantages: [B], after normalisation; the rows of a group are adjacent.
        task_rewards: [B], or [B, F] with one column a function; NaN is no reward.
        num_generations: Rows in a group.
        factor: What to multiply by.
        weights: [F], of the columns. Default: 1 each.

    Returns:
        [B]. Rows whose task rewards are all NaN take no part in the comparison.
    """
    if task_rewards.dim() == 1:
        task_rewards = task_rewards[:, None]
    absent = task_rewards.isnan().all(-1)  # [B]
    if weights is not None:
        task_rewards = task_rewards * weights.to(task_rewards)
    total = task_rewards.nansum(-1)  # [B]
    lowest = total.masked_fill(absent, math.inf).view(-1, num_generations).amin(-1)
    highest = total.masked_fill(absent, -math.inf).view(-1, num_generations).amax(-1)
    tied = torch.isclose(highest, lowest, rtol=1e-6)  # [groups]
    return advantages.where(
        ~tied.repeat_interleave(num_generations), advantages * factor
    )
