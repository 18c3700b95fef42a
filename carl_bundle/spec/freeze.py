"""Freezing: tie a spec to exact revisions, so that it renders the same anywhere."""

from __future__ import annotations

from carl_bundle.spec.train_spec import TrainSpec


def freeze(spec: TrainSpec) -> TrainSpec:
    """Return the spec with revisions resolved and digests recorded."""
    return spec
