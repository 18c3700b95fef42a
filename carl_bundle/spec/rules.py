"""Rules that tie fields of a spec together."""

from __future__ import annotations

from carl_bundle.spec.train_spec import TrainSpec


def check(spec: TrainSpec) -> None:
    """Raise SpecError with every rule that the spec breaks."""
