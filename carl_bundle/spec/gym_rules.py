"""Rules for rows that a task of reasoning-gym generates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from carl_bundle.errors import Problem
from carl_bundle.spec.blocks import GYM, Rows
from carl_bundle.spec.names import nearest
from carl_bundle.spec.tables import table

if TYPE_CHECKING:
    from carl_bundle.spec.train_spec import TrainSpec

PREFERENCES = ("dpo", "kto", "orpo")
MOST_ROWS = 2**30


def gym_rules(where: str, data: Rows) -> Iterator[Problem]:
    """Yield what is wrong with one such block."""
    name, known = data.id.removeprefix(GYM), table("reasoning_tasks.json")
    if name in known["refused"]:
        yield Problem(
            f"{where}.id",
            f"{name} cannot be trained on: {known['refused'][name]}",
            "choose a task that accepts its own answers (docs/rewards.md)",
        )
    elif name not in known["accepted"]:
        yield Problem(
            f"{where}.id",
            f"reasoning-gym {known['version']} has no task {name!r}",
            nearest(name, known["accepted"]),
        )
    for field in ("revision", "config", "columns", "streaming"):
        if getattr(data, field):
            yield Problem(
                f"{where}.{field}", "generated rows have none", "remove it, or set seed"
            )
    if (data.limit or 0) > MOST_ROWS:
        yield Problem(
            f"{where}.limit",
            "the seeds of more rows would be those of the evaluation",
            f"set it to at most {MOST_ROWS}",
        )


def gym_reward_rules(spec: TrainSpec) -> Iterator[Problem]:
    """Yield what does not go together: generated rows, and what learns from them."""
    blocks = [phase.data or spec.data for phase in spec.phases.values()]
    if spec.method == "pipeline":
        blocks.append(spec.eval.data or spec.data)
    sources = [source for block in blocks for source in block.sources]
    generated = [source.is_gym for source in sources]
    if any(generated) and spec.method in PREFERENCES:
        yield Problem(
            "data.id, method",
            f"{spec.method} compares answers, and a task generates one",
            "train with method: sft, grpo or rloo",
        )
    named = [
        index for index, one in enumerate(spec.rewards) if one.name == "reasoning_gym"
    ]
    if named and not all(generated):
        yield Problem(
            f"rewards.{named[0]}",
            "reasoning_gym scores the rows that it generated, and there are others",
            f"set data.id to {GYM}chain_sum, for instance, or name another reward",
        )
