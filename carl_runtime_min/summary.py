"""The end of a run in a terminal: curves drawn with block characters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from carl_runtime_min.run import RunDir, read_json

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


def show_curves(records: list[dict[str, Any]], names: dict[str, str]) -> None:
    """Draw metrics of metrics.jsonl, phase by phase: metric -> title."""
    for phase in dict.fromkeys(record["phase"] for record in records):
        for metric, title in names.items():
            drawn = [
                (record["step"], record[metric])
                for record in records
                if record["phase"] == phase and record.get(metric) is not None
            ]
            if drawn:
                steps, values = zip(*drawn, strict=True)
                print(f"\n{phase}: {title} from {values[0]:.3f} to {values[-1]:.3f}")
                print(*(f"  │{line}" for line in plot(values)), sep="\n")
                print(f"  └ steps {steps[0]} to {steps[-1]},", end=" ")
                print(f"lowest {min(values):.3f}, highest {max(values):.3f}")


def show_run(run: RunDir, report: dict[str, Any]) -> None:
    """The whole run on one screen: curves, gate, cascade and verdict."""
    names = {"mean_token_accuracy": "token accuracy", "reward": "reward", "phi": "Φ"}
    show_curves(run.records("metrics"), {**names, "carl/weight": "weight of CARL"})
    summary = read_json(run.path / "summary.json") or {}
    print(f"\ngate: fired at step {summary.get('gate_step')}")
    if "stage" in summary:
        opened = summary.get("cascade_step")
        print(f"cascade: stage {summary['stage']}, opened at step {opened}")
    for name, value in report.items():
        print(f"{name}: {value}")
