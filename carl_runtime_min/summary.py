"""What a run shows on a terminal when it is over."""

from __future__ import annotations

from collections.abc import Sequence

from carl_runtime_min.run import Run, read_json

BLOCKS = " ▁▂▃▄▅▆▇█"
CURVES = {
    "mean_token_accuracy": "token accuracy",
    "cascade/metric": "task reward",
    "reward": "reward",
    "phi": "Φ",
    "carl/weight": "weight of CARL",
}


def plot(values: Sequence[float], width: int = 60, height: int = 4) -> list[str]:
    """`values` as `height` lines of at most `width` columns, from lowest to highest."""
    n, columns = len(values), min(width, len(values))
    groups = [values[i * n // columns : (i + 1) * n // columns] for i in range(columns)]
    means = [sum(group) / len(group) for group in groups]
    scale = (8 * height - 1) / ((max(means) - min(means)) or 1.0)
    levels = [1 + round((mean - min(means)) * scale) for mean in means]
    return [
        "".join(BLOCKS[max(0, min(8, level - base))] for level in levels)
        for base in range(8 * (height - 1), -1, -8)
    ]


def show_run(run: Run) -> None:
    """The whole run on one screen: curves, gate, cascade and verdict."""
    records = run.records("metrics")
    for phase in dict.fromkeys(record["phase"] for record in records):
        rows = [record for record in records if record["phase"] == phase]
        for metric, title in CURVES.items():
            values = [row[metric] for row in rows if row.get(metric) is not None]
            if values:
                print(f"\n{phase}: {title} from {values[0]:.3f} to {values[-1]:.3f}")
                print(*(f"  │{line}" for line in plot(values)), sep="\n")
                print(f"  └ steps {rows[0]['step']} to {rows[-1]['step']},", end=" ")
                print(f"lowest {min(values):.3f}, highest {max(values):.3f}")
    summary = read_json(run.path / "summary.json")
    evaluation = summary.pop("evaluation", {})
    for name, value in {**summary, **evaluation}.items():
        print(f"{name}: {value}")
