"""The end of a run on one screen."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carl_runtime_min.summary import plot, show_run
from tests.trainers import run_dir

LEVELS = " ▁▂▃▄▅▆▇█"


def heights(lines: list[str]) -> list[int]:
    return [sum(LEVELS.index(line[i]) for line in lines) for i in range(len(lines[0]))]


def test_a_plot_rises_as_its_values_do() -> None:
    assert heights(plot([0.0, 1.0, 2.0, 3.0])) == [1, 11, 22, 32]
    assert heights(plot([5.0, -5.0])) == [32, 1]
    assert plot([0.0, 1.0], height=1) == ["▁█"]


def test_long_curves_are_averaged_into_the_width() -> None:
    lines = plot([0.0] * 500 + [1.0] * 500, width=10)
    assert heights(lines) == [1] * 5 + [32] * 5


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200),
    st.integers(1, 80),
    st.integers(1, 6),
)
def test_a_plot_fits_its_frame(values: list[float], width: int, height: int) -> None:
    lines = plot(values, width, height)
    assert len(lines) == height
    assert {len(line) for line in lines} == {min(width, len(values))}
    assert all(1 <= x <= 8 * height for x in heights(lines))


def test_the_screen_shows_curves_gate_cascade_and_verdict(
    tmp_path: Path, capsys: Any
) -> None:
    for step in range(1, 11):
        record = {"step": step, "mean_token_accuracy": step / 10, "phi": 0.5}
        run_dir(tmp_path, "sft").append("metrics", record)
    for step in range(1, 6):
        record = {"step": step, "reward": step / 5, "carl/weight": 0.0}
        record["phi"] = math.nan if step == 2 else step / 10
        run_dir(tmp_path).append("metrics", record)
    run = run_dir(tmp_path, "eval")
    run.summarise(gate_step=7, stage="B", cascade_step=3, weights_sha256="abc")
    run.summarise(verdict="INCONCLUSIVE", evaluation={"before": 0.5, "after": 0.6})
    show_run(run)
    out = capsys.readouterr().out
    assert "sft: token accuracy from 0.100 to 1.000" in out
    assert "grpo: reward from 0.200 to 1.000" in out
    assert "grpo: Φ from 0.100 to 0.500" in out
    assert "grpo: weight of CARL from 0.000 to 0.000" in out
    assert "steps 1 to 10" in out
    for fact in ("7", "B", "3", "INCONCLUSIVE", "0.5", "0.6"):
        assert any(line.endswith(f": {fact}") for line in out.splitlines())
    assert max(map(len, out.splitlines())) <= 88


def test_a_run_without_records_has_a_screen_too(tmp_path: Path, capsys: Any) -> None:
    run = run_dir(tmp_path, "eval")
    run.summarise(verdict="PASS")
    show_run(run)
    assert "PASS" in capsys.readouterr().out


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0, 2.0]])
def test_constant_curves_are_flat(values: list[float]) -> None:
    assert set(heights(plot(values))) == {1}
