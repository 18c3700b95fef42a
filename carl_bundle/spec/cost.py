"""What a run takes: steps, tokens, hours, money. Nothing is guessed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from carl_bundle.spec.unknown import Unknown

if TYPE_CHECKING:
    from carl_bundle.spec.train_spec import TrainSpec

_NO_ROWS = Unknown(
    "epochs over data whose length is not known here", "set max_steps, or run --dry-run"
)
_NOT_MEASURED = Unknown(
    "not measured", "give --step-seconds from the first steps of a run"
)


@dataclass(frozen=True)
class PhaseCost:
    """The size of one phase on one GPU.

    Attributes:
        phase: Its name in the spec.
        steps: Optimizer steps.
        tokens_per_step: At most: rows that are shorter take fewer.
    """

    phase: str
    steps: int | Unknown
    tokens_per_step: int

    @property
    def tokens(self) -> int | Unknown:
        if isinstance(self.steps, Unknown):
            return self.steps
        return self.steps * self.tokens_per_step


@dataclass(frozen=True)
class Cost:
    """The size of a run and what it costs at a price.

    Attributes:
        phases: In the order they run.
        hours: Steps x seconds a step.
        dollars: Hours x price.
    """

    phases: tuple[PhaseCost, ...]
    hours: float | Unknown
    dollars: float | Unknown

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)


def estimate_cost(
    spec: TrainSpec, step_seconds: float | None = None, price: float | None = None
) -> Cost:
    """Return the cost of a resolved spec.

    Args:
        spec: A resolved spec.
        step_seconds: Measured seconds of one optimizer step.
        price: Dollars an hour of the machine.
    """
    phases = []
    for name, phase in spec.phases.items():
        rows = phase.per_device_train_batch_size or 1
        tokens = rows * (phase.gradient_accumulation_steps or 1)
        steps = phase.max_steps if phase.max_steps is not None else _NO_ROWS
        phases.append(PhaseCost(name, steps, tokens * (phase.max_length or 0)))
    hours: float | Unknown = _NOT_MEASURED
    total: int | Unknown = 0
    for cost in phases:
        if isinstance(cost.steps, Unknown):
            total = cost.steps
        elif not isinstance(total, Unknown):
            total += cost.steps
    if isinstance(total, Unknown):
        hours = total
    elif step_seconds is not None:
        hours = total * step_seconds / 3600
    if price is None:
        dollars: float | Unknown = Unknown("no price", "give --price USD_PER_HOUR")
    else:
        dollars = hours if isinstance(hours, Unknown) else hours * price
    return Cost(tuple(phases), hours, dollars)
