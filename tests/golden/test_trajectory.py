"""Tier four: script and library train the same weights, step for step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tools.make_golden import ROOT
from tools.make_trajectory import CASE, MEASURED, library_text

CLOCK = {
    "step_time",
    "train_runtime",
    "train_samples_per_second",
    "train_steps_per_second",
}

FORBID = """
import sys

class Forbid:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise ImportError(f"{{name}} is forbidden in this run")

sys.meta_path.insert(0, Forbid())
"""


def train(folder: Path, text: str, forbidden: set[str]) -> tuple[Any, Any]:
    """Run a script in `folder`; return its metrics and its summary."""
    hook = folder / "hook"
    hook.mkdir(parents=True)
    (hook / "sitecustomize.py").write_text(FORBID.format(names=forbidden))
    (folder / "train.py").write_bytes(text.encode())
    paths = [str(hook)] + ([str(ROOT)] if "carl_runtime_min" not in forbidden else [])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "train.py"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode in (0, 1, 3), done.stderr[-3000:]
    run = folder / "runs" / CASE
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], json.loads(
        (run / "summary.json").read_text()
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any]]:
    folder = tmp_path_factory.mktemp("trajectory")
    script = (ROOT / "golden" / CASE / "train.py").read_bytes().decode()
    return {
        "script": train(folder / "a", script, {"carl_runtime_min", "carl_bundle"}),
        "library": train(folder / "b", library_text(), {"train"}),
    }


def test_every_metric_of_every_step_is_equal(runs: dict[str, tuple[Any, Any]]) -> None:
    rows = {
        name: [{k: v for k, v in row.items() if k not in CLOCK} for row in metrics]
        for name, (metrics, _) in runs.items()
    }
    assert {row["phase"] for row in rows["script"]} == {"sft", "grpo"}
    assert rows["script"] == rows["library"]


def test_the_final_weights_are_equal(runs: dict[str, tuple[Any, Any]]) -> None:
    script, library = (summary for _, summary in runs.values())
    assert len(script["weights_sha256"]) == 64
    assert script["weights_sha256"] == library["weights_sha256"]
    assert script == library


def test_carl_took_part(runs: dict[str, tuple[Any, Any]]) -> None:
    metrics, summary = runs["script"]
    assert summary["stage"] == "B"
    assert [r["carl/weight"] for r in metrics if r.get("carl/weight")][:2] == [
        pytest.approx(0.5 / 3),
        pytest.approx(1.0 / 3),
    ]


def test_the_committed_trajectory_still_holds(
    runs: dict[str, tuple[Any, Any]],
) -> None:
    committed = json.loads((ROOT / "golden" / CASE / "trajectory.json").read_text())
    rows = [row for row in runs["script"][0] if row["phase"] == "sft"]
    for name in MEASURED:
        found = [row[name] for row in rows if name in row]
        expected = committed["sft"][name]
        residuals = [a - b for a, b in zip(found, expected, strict=True)]
        hint = f"{name}: {residuals}\nif this is meant: make golden CASES={CASE}"
        assert max(map(abs, residuals)) <= 5e-3, hint
        assert abs(sum(residuals)) / len(residuals) <= 1e-3, hint
