"""Rules for the rows: mixtures of data sets, streams, what an evaluation holds out."""

from __future__ import annotations

from collections.abc import Iterator

from carl_bundle.errors import Problem
from carl_bundle.spec.blocks import DataSettings, Rows
from carl_bundle.spec.train_spec import TrainSpec


def mixture_rules(where: str, data: DataSettings) -> Iterator[Problem]:
    """Yield what is wrong with the settings of a mixture itself."""
    for field, info in Rows.model_fields.items():
        default = info.get_default(call_default_factory=True)
        if getattr(data, field) != default:
            yield Problem(
                f"{where}.{field}",
                "does not belong to a mixture, but to its sources",
                f"write it into the sources that it is for ({where}.mix)",
            )
    if any(source.has_images for source in data.mix or ()):
        yield Problem(
            f"{where}.mix", "a mixture is of text", "put rows with images into one file"
        )


_WHOLE = {
    "grpo": "GRPO draws each prompt several times, by its place among the rows",
    "rloo": "RLOO draws each prompt several times, by its place among the rows",
    "dpo": "the prompts and answers of DPO are checked before it trains",
    "kto": "the labels of KTO are checked before it trains",
    "orpo": "the prompts and answers of ORPO are checked before it trains",
}
"""Why the rows of a phase cannot be a stream."""


def stream_rules(spec: TrainSpec) -> Iterator[Problem]:
    """Yield what is wrong with rows that are read while the model trains."""
    for name, phase in spec.phases.items():
        data = phase.data or spec.data
        where = "data" if data == spec.data else f"{name}.data"
        field = f"{where}.{'mix' if data.mix else 'streaming'}"
        streams = [source.streaming for source in data.sources]
        if not any(streams):
            continue
        if name in _WHOLE:
            yield Problem(
                field, _WHOLE[name], "set streaming to false, with data.limit if large"
            )
            continue
        if not all(streams):
            yield Problem(
                field,
                "streams and whole data sets",
                "set streaming for all or for none",
            )
        if any(source.source not in ("file", "hub") for source in data.sources):
            yield Problem(field, "rows that are made are no stream", "remove streaming")
        if phase.max_steps is None:
            yield Problem(
                f"{name}.max_steps",
                "a stream has no end",
                "set it to a number of steps",
            )
        if phase.too_long == "refuse":
            yield Problem(
                f"{name}.too_long",
                "a stream is not read before the training",
                "set it to drop or truncate",
            )
        if any(source.has_images for source in data.sources):
            yield Problem(field, "images are checked before the training", "remove it")


def evaluated_rows_rules(spec: TrainSpec) -> Iterator[Problem]:
    """Yield what is wrong with the rows that an evaluation holds out."""
    evaluated = spec.method == "pipeline" or spec.eval.every is not None
    data = spec.eval.data or spec.data
    if evaluated and data.mix:
        yield Problem(
            "eval.data",
            "an evaluation is on one data set, and the rows to train on are a mixture",
            "name one of its sources, or rows of their own, under eval.data",
        )
    trained = [p.data or spec.data for p in spec.phases.values()]
    streams = [one for data in trained for one in data.sources if one.streaming]
    if evaluated and (data.streaming or any(one.id == data.id for one in streams)):
        yield Problem(
            "eval.data",
            "a stream has no last rows that could be held out",
            "name rows of their own under eval.data, without streaming",
        )
