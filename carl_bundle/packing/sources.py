"""What a spec trains on, from outside of its script."""

from __future__ import annotations

from itertools import chain

from carl_bundle.spec.blocks import DataSettings, Rows
from carl_bundle.spec.defaults import resolve
from carl_bundle.spec.train_spec import TrainSpec


def sources(frozen: TrainSpec) -> list[Rows]:
    """The data sets and data files that the phases of a spec read, each once."""
    spec = resolve(frozen)
    used: list[DataSettings] = [p.data or spec.data for p in spec.phases.values()]
    if spec.method == "pipeline" or spec.eval.every is not None:
        used.append(spec.eval.data or spec.data)
    rows = chain.from_iterable(data.sources for data in used)
    found = {(one.id, one.revision): one for one in rows}
    return [one for one in found.values() if one.source in ("hub", "file")]
