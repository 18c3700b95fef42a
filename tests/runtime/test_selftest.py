"""A machine that computes something else is found out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from carl_runtime_min.selftest import compare

VECTORS = {"phi": torch.tensor([[0.25, 0.5], [0.75, 1.0]]), "mask": torch.ones(2)}


@pytest.mark.parametrize(
    ("by", "code"), [(0.0, 0), (1e-7, 0), (3e-5, 1), (-3e-5, 1), (math.nan, 1)]
)
def test_a_difference_beyond_the_bound_is_told(
    by: float, code: int, capsys: Any
) -> None:
    found = {"phi": VECTORS["phi"].clone()}
    found["phi"][1, 0] += by
    assert compare(found, VECTORS) == code
    shown = capsys.readouterr().out
    assert ("FAILED" if code else "OK") in shown
    assert ("phi is off by at most nan" in shown) == math.isnan(by)


def test_one_bad_vector_is_not_hidden_by_a_good_one(capsys: Any) -> None:
    found = {"phi": VECTORS["phi"] + 1, "mask": VECTORS["mask"]}
    assert compare(found, VECTORS) == 1
    assert "mask is off by at most 0.0e+00" in capsys.readouterr().out
