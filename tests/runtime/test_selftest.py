"""A machine that computes something else is found out."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest

from carl_bundle.recipes.config import reference_vectors
from carl_runtime_min.selftest import (
    field_again,
    phi_again,
    reward_again,
    self_test,
)

CHECKS = {
    "sft": (phi_again,),
    "grpo": (phi_again, reward_again),
    "pipeline": (phi_again, reward_again, field_again),
}


def recomputed(method: str, vectors: dict[str, Any]) -> dict[str, Any]:
    """What the script of a recipe recomputes."""
    return {name: v for check in CHECKS[method] for name, v in check(vectors).items()}


@pytest.mark.parametrize("method", CHECKS)
def test_this_machine_computes_the_reference(method: str, capsys: Any) -> None:
    vectors = reference_vectors(method)
    assert self_test(vectors, recomputed(method, vectors)) == 0
    shown = capsys.readouterr().out
    assert "OK" in shown
    assert "phi differs by at most" in shown
    assert ("reward differs" in shown) == (method != "sft")
    assert ("log_probs differs" in shown) == (method == "pipeline")


def nudge(values: Any, by: float) -> None:
    while isinstance(values[0], list):
        values = values[0]
    values[0] += by


@pytest.mark.parametrize("name", ["phi", "reward", "entropy", "log_probs"])
def test_a_difference_beyond_the_bound_is_told(name: str, capsys: Any) -> None:
    vectors = reference_vectors("pipeline")
    found = recomputed("pipeline", vectors)
    for by, code in ((1e-7, 0), (3e-5, 1), (-3e-5, 1), (math.nan, 1)):
        changed = copy.deepcopy(vectors)
        nudge(changed[name], by)
        assert self_test(changed, found) == code
        shown = capsys.readouterr().out
        assert ("FAILED" if code else "OK") in shown
    assert f"{name} differs by at most nan" in shown


def test_a_machine_that_computes_nan_fails(capsys: Any) -> None:
    vectors = reference_vectors("pipeline")
    found = recomputed("pipeline", vectors)
    found["entropy"][0, 0] = math.nan
    assert self_test(vectors, found) == 1
    assert "FAILED" in capsys.readouterr().out
