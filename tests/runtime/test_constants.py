"""The constants that a run reports."""

from __future__ import annotations

import pytest

from carl_runtime_min.constants import KAPPA, SIGMA, t_star


def test_kappa_and_sigma() -> None:
    assert pytest.approx(64 / 3) == KAPPA
    assert pytest.approx(0.1875) == SIGMA
    assert KAPPA * SIGMA == 4


@pytest.mark.parametrize(
    ("dimension", "tokens"),
    [(896, 19_114), (3072, 65_536), (4096, 87_381), (3 * 10**17, 64 * 10**17), (0, 0)],
)
def test_t_star_is_exact(dimension: int, tokens: int) -> None:
    assert t_star(dimension) == tokens
