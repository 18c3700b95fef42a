"""Rules for tools and environments: who calls them, and with what rows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from carl_bundle.errors import Problem
from carl_bundle.spec.reward_rules import names_user_code
from carl_bundle.spec.train_spec import TrainSpec

ENVIRONMENT_COLUMNS = {"python": ("tests",), "sql": ("databases", "query")}
"""The columns that the built-in environments take."""


def environment_columns(spec: TrainSpec) -> tuple[str, ...]:
    """The columns without which a row is of no use to the built-in environments."""
    several = ("environment",) if len(spec.environments) > 1 else ()
    own = [ENVIRONMENT_COLUMNS.get(one.name or "", ()) for one in spec.environments]
    return (*several, *chain.from_iterable(own))


def tool_rules(spec: TrainSpec) -> Iterator[Problem]:
    """Yield what does not go with tools and environments."""
    used = [name for name in ("tools", "environments") if getattr(spec, name)]
    if used and spec.method != "grpo":
        yield Problem(
            f"{used[0]}, method",
            f"TRL calls no tools in {spec.method}",
            f"set method to grpo, or remove {' and '.join(used)}",
        )
    if used and spec.model.is_builtin:
        yield Problem(
            f"{used[0]}, model",
            "the chat template of the built-in model has no tools",
            "name a chat model that calls tools (model: Qwen/Qwen3-0.6B)",
        )
    for index, tool in enumerate(spec.tools):
        yield from _user_code(f"tools.{index}", tool, "function")
    labels = [
        *spec.tools,
        *(one.name or one.factory or "" for one in spec.environments),
    ]
    for label in sorted({label for label in labels if labels.count(label) > 1}):
        yield Problem(used[-1], f"{label} stands there twice", "keep one of them")
    data = (spec.sampled.data if spec.sampled else None) or spec.data
    builtin = [source for source in data.sources if source.is_builtin]
    for index, one in enumerate(spec.environments):
        where = f"environments.{index}"
        if (one.name is None) == (one.factory is None):
            yield Problem(
                where,
                "needs exactly one of `name` and `factory`",
                "write python, sql, or path.py:Class",
            )
        elif one.factory is not None:
            yield from _user_code(where, one.factory, "class")
        if builtin and (one.factory is not None or data.mix):
            yield Problem(
                f"{where}, data",
                "its rows are not built in",
                "name rows for it (data: rows.jsonl)",
            )
    weights = [one.weight for one in spec.rewards]
    weights += [one.weight for one in spec.environments]
    if spec.environments and not any(weights):
        yield Problem("environments", "every weight is 0", "give one a positive weight")


def _user_code(where: str, text: str, kind: str) -> Iterator[Problem]:
    if not names_user_code(text):
        yield Problem(where, f"{text!r} names no {kind}", f"write it as path.py:{kind}")
