"""How the rewards of a run depend on the length of what was sampled.

    python -m tools.length_bias runs/carl

Pearson's correlation over each batch, as the run logged it: mean, lowest and highest,
and in how many of the steps it was positive.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import fmean

NAME = "length_correlation"


def main() -> None:
    lines = (Path(sys.argv[1]) / "metrics.jsonl").read_text().splitlines()
    found: dict[str, list[float]] = {}
    for row in map(json.loads, lines):
        for key, value in row.items():
            if key.endswith(NAME) and value is not None:
                found.setdefault(key.removesuffix(f"/{NAME}"), []).append(value)
    print(f"{'reward':24}{'mean':>8}{'lowest':>8}{'highest':>9}{'positive':>12}")
    for name, values in found.items():
        positive = f"{sum(x > 0 for x in values)} of {len(values)}"
        ends = f"{min(values):8.2f}{max(values):9.2f}"
        print(f"{name:24}{fmean(values):8.2f}{ends}{positive:>12}")


if __name__ == "__main__":
    main()
