"""Exact bounds on a pass rate, and paired comparisons."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carl_runtime_min.errors import UsageError
from carl_runtime_min.verdict import (
    binomial_tail,
    mcnemar,
    paired_bootstrap,
    pass_rate_bounds,
    require_winnable,
    verdict,
    wilson_interval,
)


def exact_tail(k: int, n: int, p: Fraction) -> float:
    return float(
        sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))
    )


@given(st.integers(1, 60), st.data())
def test_binomial_tail_is_exact(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    p = Fraction(data.draw(st.integers(1, 99)), 100)
    assert binomial_tail(k, n, float(p)) == pytest.approx(
        exact_tail(k, n, p), rel=1e-11, abs=1e-15
    )


def test_rounding_makes_no_probability_above_one() -> None:
    assert all(binomial_tail(0, n, 0.3) <= 1 for n in range(200))


def test_binomial_tail_holds_for_a_hundred_thousand() -> None:
    n = 100_000
    at_the_mean = binomial_tail(n // 2, n, 0.5)
    middle = math.exp(math.lgamma(n + 1) - 2 * math.lgamma(n / 2 + 1) - n * math.log(2))
    assert at_the_mean == pytest.approx(0.5 + middle / 2, abs=1e-9)
    assert binomial_tail(n, n, 0.9999) == pytest.approx(0.9999**n, rel=1e-9)


@pytest.mark.parametrize(
    ("passes", "n", "lower", "upper"),
    [  # one-sided at 0.05; standard tables of the binomial limits
        (45, 64, 0.595495, 0.796072),
        (190, 200, 0.916665, 0.972626),
        (0, 20, 0.0, 0.139108),
        (20, 20, 0.860892, 1.0),
        (5, 10, 0.222441, 0.777559),
        (98_000, 100_000, 0.979256, 0.980723),
    ],
)
def test_bounds_on_the_pass_rate(
    passes: int, n: int, lower: float, upper: float
) -> None:
    assert pass_rate_bounds(passes, n, 0.05) == pytest.approx((lower, upper), abs=1e-6)


def test_a_perfect_score_has_its_closed_form() -> None:
    for n in (1, 7, 59, 1000):
        for alpha in (0.01, 0.05, 0.2):
            lower, upper = pass_rate_bounds(n, n, alpha)
            assert lower == pytest.approx(alpha ** (1 / n), abs=1e-11)
            assert upper == 1.0


@given(st.integers(1, 40), st.data(), st.sampled_from([0.01, 0.05, 0.1]))
def test_bounds_are_where_the_tail_equals_alpha(
    n: int, data: st.DataObject, alpha: float
) -> None:
    passes = data.draw(st.integers(0, n))
    lower, upper = pass_rate_bounds(passes, n, alpha)
    assert 0 <= lower <= passes / n <= upper <= 1
    if passes > 0:
        assert exact_tail(passes, n, Fraction(lower)) == pytest.approx(alpha, rel=1e-8)
    if passes < n:
        failures = exact_tail(n - passes, n, Fraction(1 - upper))
        assert failures == pytest.approx(alpha, rel=1e-8)


def test_the_false_pass_rate_is_at_most_alpha() -> None:
    draw, passed = random.Random(0), 0
    for _ in range(1000):
        passes = sum(draw.random() < 0.8 for _ in range(100))
        passed += verdict(passes, 100, 0.8, 0.05) == "PASS"
    assert passed <= 60


def test_verdicts_at_their_edges() -> None:
    assert verdict(100, 100, 0.9, 0.05) == "PASS"
    assert verdict(90, 100, 0.9, 0.05) == "INCONCLUSIVE"
    assert verdict(80, 100, 0.9, 0.05) == "FAIL"
    lower, upper = pass_rate_bounds(90, 100, 0.05)
    assert verdict(90, 100, lower, 0.05) == "PASS"
    assert verdict(90, 100, upper, 0.05) == "INCONCLUSIVE"
    assert verdict(90, 100, upper + 1e-9, 0.05) == "FAIL"


def test_wilson_interval() -> None:
    assert wilson_interval(45, 64, 0.05) == pytest.approx(
        (0.582298, 0.800949), abs=1e-6
    )
    assert wilson_interval(190, 200, 0.05) == pytest.approx(
        (0.910421, 0.972617), abs=1e-6
    )
    assert wilson_interval(0, 20, 0.05) == pytest.approx((0, 0.161125), abs=1e-6)
    assert wilson_interval(20, 20, 0.05) == pytest.approx((0.838875, 1), abs=1e-6)
    narrow, wide = wilson_interval(45, 64, 0.2), wilson_interval(45, 64, 0.01)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    for n in range(1, 300):
        low, high = *wilson_interval(0, n, 0.05)[:1], *wilson_interval(n, n, 0.05)[1:]
        assert low >= 0
        assert high <= 1


def test_an_evaluation_nobody_could_pass_is_refused() -> None:
    with pytest.raises(UsageError, match="58 of 58") as caught:
        require_winnable(58, 0.95, 0.05)
    assert "at least 59 items" in caught.value.remedy
    require_winnable(59, 0.95, 0.05)
    assert verdict(59, 59, 0.95, 0.05) == "PASS"
    assert verdict(58, 58, 0.95, 0.05) == "INCONCLUSIVE"
    require_winnable(1, 0.04, 0.05)


@pytest.mark.parametrize(
    ("threshold", "alpha"), [(0, 0.05), (1, 0.05), (0.5, 0), (0.5, 0.5), (2, 0.1)]
)
def test_threshold_and_alpha_have_their_ranges(threshold: float, alpha: float) -> None:
    with pytest.raises(UsageError, match="must lie in"):
        require_winnable(10**6, threshold, alpha)
    require_winnable(10**6, 0.001, 0.499)


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [
        (10, 2, 79 / 4096),
        (2, 10, 4083 / 4096),
        (5, 5, 638 / 1024),
        (0, 0, 1.0),
        (1, 0, 0.5),
        (0, 1, 1.0),
    ],
)
def test_mcnemar(gained: int, lost: int, p: float) -> None:
    assert mcnemar(gained, lost) == pytest.approx(p, abs=1e-12)


def test_paired_bootstrap_brackets_the_difference() -> None:
    draw = random.Random(1)
    before = [float(draw.random() < 0.5) for _ in range(400)]
    after = [max(x, float(draw.random() < 0.2)) for x in before]
    gain = (sum(after) - sum(before)) / 400
    low, high = paired_bootstrap(before, after, 0.05, seed=0)
    assert low < gain < high
    error = math.sqrt(gain * (1 - gain) / 400)  # the differences are 0 or 1
    assert low == pytest.approx(gain - 1.96 * error, abs=0.4 * error)
    assert high == pytest.approx(gain + 1.96 * error, abs=0.4 * error)
    assert paired_bootstrap(before, after, 0.05, seed=0) == (low, high)
    assert paired_bootstrap(before, after, 0.05, seed=1) != (low, high)
    narrower = paired_bootstrap(before, after, 0.4, seed=0)
    assert low < narrower[0] < narrower[1] < high


def test_paired_bootstrap_of_a_constant_difference() -> None:
    assert paired_bootstrap([0.0] * 5, [0.25] * 5, 0.05, seed=0) == (0.25, 0.25)
    with pytest.raises(ValueError, match="zip"):
        paired_bootstrap([0.0], [0.0, 1.0], 0.05, seed=0)


@pytest.mark.parametrize(("alpha", "cut"), [(0.05, 50), (0.2, 200), (0.9999, 999)])
def test_paired_bootstrap_cuts_the_same_share_at_both_ends(
    alpha: float, cut: int
) -> None:
    draw = random.Random(9)
    before, after = ([draw.random() for _ in range(9)] for _ in range(2))
    changes = [b - a for a, b in zip(before, after, strict=True)]
    for seed in range(40):  # of these, some tell 2000 resamples from 2001
        draw = random.Random(seed)
        means = sorted(math.fsum(draw.choices(changes, k=9)) / 9 for _ in range(2000))
        found = paired_bootstrap(before, after, alpha, seed=seed)
        assert found == (means[cut], means[1999 - cut])
