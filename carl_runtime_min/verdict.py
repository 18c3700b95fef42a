"""Whether an evaluation shows what was claimed: exact bounds on a pass rate."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import NormalDist, fmean

from carl_runtime_min.errors import UsageError


def binomial_tail(k: int, n: int, p: float) -> float:
    """P(X >= k) for X ~ Binomial(n, p), with 0 < p < 1."""

    def log_probability(i: int) -> float:
        choose = math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1)
        return choose + i * math.log(p) + (n - i) * math.log1p(-p)

    return min(1.0, math.fsum(math.exp(log_probability(i)) for i in range(k, n + 1)))


def pass_rate_bounds(passes: int, n: int, alpha: float) -> tuple[float, float]:
    """Exact (Clopper-Pearson) lower and upper bound, each one-sided at level alpha."""

    def lower(k: int) -> float:
        below, above = 0.0, k / n
        while above - below > 1e-12:
            p = (below + above) / 2
            below, above = (p, above) if binomial_tail(k, n, p) < alpha else (below, p)
        return below

    return lower(passes), 1 - lower(n - passes)


def wilson_interval(passes: int, n: int, alpha: float) -> tuple[float, float]:
    """Wilson's score interval, two-sided, of coverage 1 - alpha."""
    z, rate = NormalDist().inv_cdf(1 - alpha / 2), passes / n
    centre = rate + z * z / (2 * n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    shrink = 1 + z * z / n
    return max(0.0, (centre - half) / shrink), min(1.0, (centre + half) / shrink)


def verdict(passes: int, n: int, threshold: float, alpha: float) -> str:
    """ "PASS", "FAIL" or "INCONCLUSIVE": is the pass rate at least `threshold`?"""
    lower, upper = pass_rate_bounds(passes, n, alpha)
    if lower >= threshold:
        return "PASS"
    return "FAIL" if upper < threshold else "INCONCLUSIVE"


def require_winnable(n: int, threshold: float, alpha: float) -> None:
    """Refuse an evaluation that not even a perfect score could pass.

    Raises:
        UsageError: threshold or alpha out of range, or alpha^(1/n) < threshold.
    """
    if not (0 < threshold < 1 and 0 < alpha < 0.5):
        raise UsageError(
            f"threshold {threshold} must lie in (0, 1) and alpha {alpha} in (0, 0.5)"
        )
    needed = math.ceil(math.log(alpha) / math.log(threshold))
    if n < needed:
        raise UsageError(
            f"{n} of {n} passes would not show a pass rate of {threshold}",
            remedy=f"evaluate at least {needed} items, or lower the threshold",
        )


def mcnemar(gained: int, lost: int) -> float:
    """Exact one-sided McNemar test: p of "more items gained than lost"."""
    return binomial_tail(gained, gained + lost, 0.5)


def paired_bootstrap(
    before: Sequence[float], after: Sequence[float], alpha: float, seed: int
) -> tuple[float, float]:
    """Percentile interval, of coverage 1 - alpha, of mean(after) - mean(before)."""
    changes = [b - a for a, b in zip(before, after, strict=True)]
    draw, n, resamples = random.Random(seed), len(changes), 2000
    means = sorted(fmean(draw.choices(changes, k=n)) for _ in range(resamples))
    cut = math.floor(resamples * alpha / 2)
    return means[cut], means[-1 - cut]
