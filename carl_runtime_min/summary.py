"""The end of a run in a terminal: curves drawn with block characters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BLOCKS = " ▁▂▃▄▅▆▇█"


def plot(values: Sequence[float], width: int = 60, height: int = 4) -> list[str]:
    """`values` as `height` lines of text, at most `width` columns, lowest to highest."""
    columns = min(width, len(values))
    edges = [i * len(values) // columns for i in range(columns + 1)]
    means = [
        sum(values[a:b]) / (b - a) for a, b in zip(edges[:-1], edges[1:], strict=True)
    ]
    low, high = min(means), max(means)
    span = (high - low) or 1.0
    levels = [1 + round((mean - low) / span * (8 * height - 1)) for mean in means]
    rows = range(height - 1, -1, -1)
    return [
        "".join(BLOCKS[max(0, min(8, level - 8 * row))] for level in levels)
        for row in rows
    ]


def print_curves(
    records: list[dict[str, Any]], phase: str, names: dict[str, str]
) -> None:
    """Draw the metrics of one phase; those that it did not log are left out.

    Args:
        records: Lines of metrics.jsonl.
        phase: The phase to draw.
        names: Metric -> title.
    """
    for metric, title in names.items():
        seen = [r for r in records if r["phase"] == phase and r.get(metric) is not None]
        if seen:
            values = [record[metric] for record in seen]
            first, last = seen[0]["step"], seen[-1]["step"]
            print(f"\n{phase}: {title}, {values[0]:.3f} to {values[-1]:.3f}")
            print(*(f"  │{line}" for line in plot(values)), sep="\n")
            print(f"  └ step {first} to {last}, drawn {min(values):.3f} to", end=" ")
            print(f"{max(values):.3f}")
