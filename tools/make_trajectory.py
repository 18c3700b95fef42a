"""The training runs whose course is committed in `golden/<case>/trajectory.json`."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from carl_bundle.bundler.render import render
from carl_bundle.recipes import plan
from carl_bundle.spec.freeze import freeze
from carl_bundle.spec.load import load

ROOT = Path(__file__).parent.parent
COURSES = {
    "trajectory": ("sft", ("loss", "grad_norm", "entropy", "mean_token_accuracy")),
    "rloo": ("rloo", ("reward", "rewards/carl/mean", "grad_norm", "entropy", "phi")),
    "dpo": (
        "dpo",
        ("loss", "grad_norm", "logps/chosen", "logps/rejected", "phi/chosen"),
    ),
    "kto": ("kto", ("loss", "grad_norm", "kl", "rewards/margins", "phi/chosen")),
    "orpo": ("orpo", ("loss", "grad_norm", "log_odds_chosen", "phi/chosen")),
}
"""Of each case with a trajectory.json: the phase and the metrics that it holds."""


def library_text(case: str) -> str:
    """The same wiring, importing the runtime instead of containing it."""
    folder = ROOT / "golden" / case
    return render(plan(freeze(load(folder / "spec.yaml").spec)), library=True)


def course(case: str, rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    """What is committed of the rows of a metrics.jsonl: one phase, step by step."""
    phase, measured = COURSES[case]
    rows = [row for row in rows if row["phase"] == phase]
    return {
        name: [row[name] for row in rows if row.get(name) is not None]
        for name in measured
    }


def trajectory(case: str, metrics: Path) -> dict[str, object]:
    """The content of a trajectory.json."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    return {
        "versions": {name: version(name) for name in ("torch", "transformers", "trl")},
        COURSES[case][0]: course(case, rows),
    }
