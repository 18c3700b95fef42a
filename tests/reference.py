"""The mathematics again, one token at a time in plain float64 Python.

Written from the definitions, not from `carl_runtime_min`: it imports nothing of
it, so that an error would have to be made twice to go unseen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def field_of_row(
    logits: Sequence[float], token: int, temperature: float = 1.0
) -> tuple[float, float]:
    """(H, log p) of a row by the textbook: p = softmax(z), H = -sum p log p."""
    scaled = [z / temperature for z in logits]
    top = max(scaled)
    normaliser = top + math.log(math.fsum(math.exp(z - top) for z in scaled))
    log_p = [z - normaliser for z in scaled]
    terms = [-math.exp(lp) * lp for lp in log_p if lp > -math.inf]
    return math.fsum(terms), log_p[token]


def phi_of(entropy: float, vocab_size: int) -> float:
    return 1 - entropy / math.log(vocab_size)


def coherence_of_scale(phi: Sequence[float], j: int) -> float:
    size = 2**j
    deviations = []
    for start in range(0, len(phi) - size + 1, size):
        block = phi[start : start + size]
        mean = math.fsum(block) / size
        deviations.append(math.sqrt(math.fsum((x - mean) ** 2 for x in block) / size))
    return min(max(1 - math.fsum(deviations) / len(deviations), 0.0), 1.0)


def coherence(phi: Sequence[float]) -> float:
    if not phi:
        return 0.5
    scales = range(min(int(math.log2(len(phi))), 15) + 1)
    weights = [2 ** (j / 2) for j in scales]
    values = [coherence_of_scale(phi, j) for j in scales]
    return math.fsum(w * c for w, c in zip(weights, values, strict=True)) / math.fsum(
        weights
    )


def cloud(phi: Sequence[float], log_probs: Sequence[float]) -> float:
    if not phi:
        return 0.0
    return math.fsum(
        math.exp(lp) * x for lp, x in zip(log_probs, phi, strict=True)
    ) / len(phi)


def discontinuity(phi: Sequence[float], junctions: Sequence[bool] = ()) -> float:
    worths = []
    for t in range(1, len(phi)):
        if junctions and junctions[t]:
            continue
        before, change = phi[t - 1], phi[t] - phi[t - 1]
        if change > 0.03:
            worths.append(0.8 if before < 0.5 else 0.3)
        elif change < -0.03:
            worths.append(0.2 if before > 0.7 else 0.5)
    return math.fsum(worths) / len(worths) if worths else 0.5


def reward(
    phi: Sequence[float],
    log_probs: Sequence[float],
    junctions: Sequence[bool] = (),
    weights: Sequence[float] = (0.5, 0.3, 0.2),
) -> float:
    if not phi:
        return 0.0
    if not all(map(math.isfinite, [*phi, *log_probs])):
        return math.nan
    return (
        weights[0] * coherence(phi)
        + weights[1] * cloud(phi, log_probs)
        + weights[2] * discontinuity(phi, junctions)
    )


def sixtieth_percentile(values: Sequence[float]) -> float:
    ordered = sorted(values)
    place = 0.6 * (len(ordered) - 1)
    whole = int(place)
    following = ordered[min(whole + 1, len(ordered) - 1)]
    return ordered[whole] * (1 - (place - whole)) + following * (place - whole)


def first_opening(
    metrics: Sequence[float | None], maximum: float | None = None
) -> tuple[int, str] | None:
    """(observation number, reason) at which the adaptive cascade decides to open."""
    history: list[float] = []
    for number, metric in enumerate(metrics, 1):
        if metric is None or math.isnan(metric):
            continue
        history.append(metric)
        last = history[-10:]
        close = math.inf if maximum is None else maximum - 0.1 * abs(maximum)
        if len(last) == 10 and all(x >= close for x in last):
            return number, "solved"
        if len(history) >= 20:
            threshold = sixtieth_percentile(history[:-10])
            if all(x > threshold for x in last):
                return number, "rising"
    return None


def first_plateau(values: Sequence[float]) -> int | None:
    """The 1-based observation at which the plateau gate fires."""
    for n in range(40, len(values) + 1):
        history = values[:n]
        last, before = history[n - 10 :], history[n - 20 : n - 10]
        means = [math.fsum(part) / 10 for part in (before, last)]
        squares = [
            math.fsum((x - mean) ** 2 for x in part)
            for part, mean in zip((before, last), means, strict=True)
        ]
        error = math.sqrt(sum(squares) / 9 / 10)  # sample variances, ten values each
        rise = means[1] - means[0]
        risen = means[1] > sixtieth_percentile(history[: n // 2])
        if risen and (rise < error or rise <= 0):
            return n
    return None
