"""Rows of several data sets in one, by weight."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

from carl_runtime_min.errors import UsageError


def mixed(parts: list[Any], sources: list[dict[str, Any]], seed: int) -> Any:
    """The rows of several sources in one, drawn by their weights, until each was used.

    A source that has run out starts over. Says how many rows came from each.
    UsageError: a column holds one kind of thing in one source, another in another.
    """
    from datasets import Json, List, interleave_datasets

    if len(parts) == 1:
        return parts[0]
    names = [source["data"]["id"] for source in sources]
    for column in sorted({name for rows in parts for name in rows.column_names}):
        kinds = [rows.features.get(column) for rows in parts]
        there = [(name, kind) for name, kind in zip(names, kinds, strict=True) if kind]
        told = ", ".join(f"{kind} in {name}" for name, kind in there)
        if all(kind == there[0][1] for _, kind in there):
            continue
        if not all(isinstance(kind, List | dict) for _, kind in there):
            remedy = "give the column one type in all files, such as text"
            raise UsageError(f"{column!r} is {told}", remedy=remedy)
        parts = [  # turns with other keys, such as tool_calls
            rows.cast_column(column, Json()) if column in rows.features else rows
            for rows in parts
        ]
    if len({"messages" in rows.column_names for rows in parts}) > 1:
        remedy = "map messages, or prompt with completion, in all of them"
        raise UsageError(f"rows of two forms: {', '.join(names)}", remedy=remedy)
    total = sum(source["weight"] for source in sources)
    shares = [source["weight"] / total for source in sources]
    marked = [
        rows.add_column("carl_source", [i] * len(rows)) for i, rows in enumerate(parts)
    ]
    rows = interleave_datasets(marked, shares, seed, stopping_strategy="all_exhausted")
    drawn = Counter(rows["carl_source"])
    facts = [f"{x} {drawn[i]} (has {len(parts[i])})" for i, x in enumerate(names)]
    if os.environ.get("RANK", "0") == "0":
        print(f"{len(rows)} rows mixed:", ", ".join(facts))
    return rows.remove_columns("carl_source")
