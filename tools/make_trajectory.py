"""The training run whose course is committed in `golden/trajectory/trajectory.json`."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

from carl_bundle.bundler.render import render
from carl_bundle.recipes import plan
from carl_bundle.spec.freeze import freeze
from carl_bundle.spec.load import load

ROOT = Path(__file__).parent.parent
CASE = "trajectory"
MEASURED = ("loss", "grad_norm", "entropy", "mean_token_accuracy")


def library_text() -> str:
    """The same wiring, importing the runtime instead of containing it."""
    folder = ROOT / "golden" / CASE
    return render(plan(freeze(load(folder / "spec.yaml").spec)), library=True)


def trajectory(metrics: Path) -> dict[str, object]:
    """What is committed of a run's metrics.jsonl: the SFT phase, step by step."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    rows = [row for row in rows if row["phase"] == "sft"]
    return {
        "versions": {name: version(name) for name in ("torch", "transformers", "trl")},
        "sft": {name: [r[name] for r in rows if name in r] for name in MEASURED},
    }
