"""Whether an evaluation shows what was claimed: exact bounds on a pass rate."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import NormalDist, fmean

from carl_runtime_min.errors import UsageError


def binomial_tail(k: int, n: int, p: float) -> float:
    """P(X >= k) for X ~ Binomial(n, p), with 0 <= k <= n and 0 < p < 1."""
    if k == 0:
        return 1.0
    if k <= n * p:  # the tail below k is the shorter one
        return 1.0 - binomial_tail(n - k + 1, n, 1 - p)
    log_choose = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    term = math.exp(log_choose + k * math.log(p) + (n - k) * math.log1p(-p))
    total = 0.0
    while total + term > total:  # beyond the mean the terms only shrink
        total += term
        term *= (n - k) / (k + 1) * (p / (1 - p))
        k += 1
    return total


def pass_rate_bounds(passes: int, n: int, alpha: float) -> tuple[float, float]:
    """Exact (Clopper-Pearson) lower and upper bound, each one-sided at level alpha."""

    def lower(k: int) -> float:
        below, above = 0.0, k / n
        while above - below > 1e-12:
            p = (below + above) / 2
            if binomial_tail(k, n, p) < alpha:
                below = p
            else:
                above = p
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


def mcnemar(gained: int, lost: int) -> tuple[float, float]:
    """Exact McNemar test on the items that changed sides.

    Returns:
        p of "more gained than lost" (one-sided), and p of "any difference".
    """
    changed = gained + lost
    improved = binomial_tail(gained, changed, 0.5)
    worsened = binomial_tail(lost, changed, 0.5)
    return improved, min(1.0, 2 * min(improved, worsened))


def paired_bootstrap(
    before: Sequence[float],
    after: Sequence[float],
    alpha: float,
    seed: int,
    resamples: int = 2000,
) -> tuple[float, float]:
    """Percentile interval, of coverage 1 - alpha, of mean(after) - mean(before)."""
    changes = [b - a for a, b in zip(before, after, strict=True)]
    draw = random.Random(seed)
    means = sorted(
        fmean(draw.choices(changes, k=len(changes))) for _ in range(resamples)
    )
    cut = math.floor(resamples * alpha / 2)
    return means[cut], means[-1 - cut]
