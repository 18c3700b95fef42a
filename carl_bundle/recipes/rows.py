"""The rows of a phase: what of a script's CONFIG loads, mixes and bounds them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

from carl_bundle.spec.blocks import Rows, Source
from carl_bundle.spec.phases import COLUMNS, PhaseSettings, SampledSettings
from carl_bundle.spec.reward_rules import needed_columns
from carl_bundle.spec.tool_rules import environment_columns
from carl_bundle.spec.train_spec import TrainSpec

BUILTIN_ROWS = {"sft": 4096, "grpo": 1024}
"""Rows of the built-in task, where the steps do not say how many are used."""


GYM_ROWS = 4096
"""How many rows a task of reasoning-gym generates, if the spec does not say it."""


def same_rows(one: Rows, other: Rows) -> bool:
    """Whether two blocks read one file or split; the built-in parts are disjoint."""
    read = [(d.id, d.config, d.split, d.revision) for d in (one, other)]
    return one.source in ("file", "hub") and read[0] == read[1]


def data_block(spec: TrainSpec, data: Rows, phase: str) -> dict[str, Any]:
    """What loads the rows of a phase; `part` bounds a slice, `limit` shortens it.

    Rows that are evaluated and trained on lie in one file or split: training leaves
    out the last ones, the evaluation takes those.
    """
    block = data.model_dump(
        mode="json", exclude={"sha256", "streaming", "mix", "weight"}
    )
    items, phases = spec.eval.items or 0, spec.phases.values()
    evaluated = spec.method == "pipeline" or spec.eval.every is not None
    part: list[int | None] = [None, None]
    if phase == "eval":
        trained = chain.from_iterable((p.data or spec.data).sources for p in phases)
        part[0] = -items if any(same_rows(data, one) for one in trained) else None
        block["limit"] = items
    elif evaluated and same_rows(data, spec.eval.data or spec.data):
        part[1] = -items
    if phase != "sft":
        sized = ("width", "height") if data.has_images else ()  # by the image itself
        scored = chain.from_iterable(map(needed_columns, spec.rewards))
        wanted = [name for name in scored if name not in sized]
        wanted += environment_columns(spec)
        needed = COLUMNS.get(phase) or ("prompt", *wanted)
        block["columns"] = {name: name for name in needed} | block["columns"]
    if data.is_gym:
        half = 2**30  # rows are seeded one by one, upwards
        block["seed"] = spec.seed % half + half * (phase == "eval")
        block["limit"] = block["limit"] or GYM_ROWS
    return {**block, "part": part}


def training_rows(
    spec: TrainSpec, data: Rows, phase: PhaseSettings, name: str
) -> dict[str, Any]:
    """A data block, with what becomes of rows that are too long for the phase."""
    block = data_block(spec, data, name)
    if data.is_builtin:
        return block
    endless = {"endless": name != "eval"} if streams(spec, phase) else {}
    return {**block, **limits(phase), **endless}


def limits(phase: PhaseSettings) -> dict[str, Any]:
    """What becomes of which rows of a phase."""
    return {"longest": phase.max_length, "too_long": phase.too_long}


def streams(spec: TrainSpec, phase: PhaseSettings) -> bool:
    """Whether the rows of a phase are read while it trains."""
    return any(source.streaming for source in (phase.data or spec.data).sources)


def mixture_block(
    spec: TrainSpec, sources: Iterable[Source], name: str
) -> list[dict[str, Any]]:
    """The sources of a mixture, each with a data block of its own."""
    phase, blocks = spec.phases[name], []
    for one in sources:
        block: dict[str, Any] = {"kind": one.source, "weight": one.weight}
        block["data"] = training_rows(spec, one, phase, name) | limits(phase)
        if one.is_builtin:
            count = one.limit or BUILTIN_ROWS[sampled_part(name)]
            block["rows"] = builtin_rows(spec, sampled_part(name), count)
        blocks.append(block)
    return blocks


def sampled_part(name: str) -> str:
    """Whose part of the built-in task a phase trains on."""
    return "grpo" if name in ("grpo", "rloo") else "sft"


def builtin_rows(spec: TrainSpec, part: str, count: int) -> dict[str, Any]:
    """Arguments of what makes the built-in rows."""
    return {"part": part, "seed": spec.seed, "count": count}


def builtin_count(spec: TrainSpec, phase: PhaseSettings) -> int:
    """How many rows to make: every one is seen once, if the steps are given."""
    rows = phase.per_device_train_batch_size or 1
    rows *= phase.gradient_accumulation_steps or 1
    default = BUILTIN_ROWS["sft"]
    if isinstance(phase, SampledSettings):
        rows, default = rows // (phase.num_generations or 1), BUILTIN_ROWS["grpo"]
    if phase.max_steps:
        return rows * phase.max_steps
    return (phase.data or spec.data).limit or default
