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
from tools.make_trajectory import COURSES, course, library_text

CLOCK = {  # and a digest that a clock is in
    "chain",
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


PHASES = {case: {phase} for case, (phase, _) in COURSES.items()}
PHASES["trajectory"] = {"sft", "grpo"}
WEIGHTS = {"trajectory": [0.5 / 3, 1.0 / 3], "rloo": [0.5 / 2, 1.0 / 2]}
"""Those of R_CARL at the steps that follow the opening of the cascade."""


def train(case: str, folder: Path, text: str, forbidden: set[str]) -> tuple[Any, Any]:
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
    verdicts = (0, 1, 3) if case == "trajectory" else (0,)
    assert done.returncode in verdicts, done.stderr[-3000:]
    run = folder / "runs" / case
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], json.loads(
        (run / "summary.json").read_text()
    )


@pytest.fixture(scope="module", params=COURSES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def runs(
    case: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Any, Any]]:
    folder = tmp_path_factory.mktemp(case)
    script = (ROOT / "golden" / case / "train.py").read_bytes().decode()
    both = {"carl_runtime_min", "carl_bundle"}
    return {
        "script": train(case, folder / "a", script, both),
        "library": train(case, folder / "b", library_text(case), {"train"}),
    }


def test_every_metric_of_every_step_is_equal(
    case: str, runs: dict[str, tuple[Any, Any]]
) -> None:
    rows = {
        name: [{k: v for k, v in row.items() if k not in CLOCK} for row in metrics]
        for name, (metrics, _) in runs.items()
    }
    assert {row["phase"] for row in rows["script"]} == PHASES[case]
    assert rows["script"] == rows["library"]


def test_the_final_weights_are_equal(runs: dict[str, tuple[Any, Any]]) -> None:
    script, library = (summary for _, summary in runs.values())
    assert len(script["weights_sha256"]) == 64
    assert script["weights_sha256"] == library["weights_sha256"]
    assert script == library


def test_carl_took_part(case: str, runs: dict[str, tuple[Any, Any]]) -> None:
    metrics, summary = runs["script"]
    assert summary.get("stage") == ("B" if case in WEIGHTS else None)
    rows = [row for row in metrics if row.get("carl/weight")]
    found = [row["carl/weight"] for row in rows[:2]]
    assert found == pytest.approx(WEIGHTS.get(case, []))
    assert all(row["rewards/carl/mean"] > 0 for row in rows)


def test_the_committed_trajectory_still_holds(
    case: str, runs: dict[str, tuple[Any, Any]]
) -> None:
    committed = json.loads((ROOT / "golden" / case / "trajectory.json").read_text())
    phase, measured = COURSES[case]
    assert committed[phase].keys() == set(measured)
    for name, found in course(case, runs["script"][0]).items():
        expected = committed[phase][name]
        residuals = [a - b for a, b in zip(found, expected, strict=True)]
        hint = f"{name}: {residuals}\nif this is meant: make golden CASES={case}"
        assert max(map(abs, residuals)) <= 5e-3, hint
        assert abs(sum(residuals)) / len(residuals) <= 1e-3, hint
