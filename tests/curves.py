"""Simulated courses of a reward or an accuracy, for what watches such courses."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

N = 300  # observations
Curve = Callable[[random.Random], list[float]]


def constant(level: float) -> Curve:
    return lambda draw: [level] * N


def noise(draw: random.Random) -> list[float]:
    return [draw.gauss(0.3, 0.1) for _ in range(N)]


def rate(samples: int) -> Curve:
    """The share of successes at a constant chance of 0.3."""
    return lambda draw: [
        sum(draw.random() < 0.3 for _ in range(samples)) / samples for _ in range(N)
    ]


def decline(draw: random.Random) -> list[float]:
    return [0.6 - 0.5 * t / N + draw.gauss(0, 0.1) for t in range(N)]


def wandering(draw: random.Random) -> list[float]:
    """AR(1) with coefficient 0.9: every value close to the one before."""
    values, value = [], 0.0
    for _ in range(N):
        value = 0.9 * value + draw.gauss(0, 0.1 * math.sqrt(1 - 0.9**2))
        values.append(0.3 + value)
    return values


def sigmoid(draw: random.Random) -> list[float]:
    return [1 / (1 + math.exp((150 - t) / 20)) + draw.gauss(0, 0.1) for t in range(N)]


def rise(draw: random.Random) -> list[float]:
    return [0.1 + 0.5 * t / N + draw.gauss(0, 0.1) for t in range(N)]


def zeros_then_rise(draw: random.Random) -> list[float]:
    late = [0.006 * t + abs(draw.gauss(0, 0.05)) for t in range(N - 100)]
    return [0.0] * 100 + late


def plateau(draw: random.Random) -> list[float]:
    return [draw.gauss(0.95, 0.01) for _ in range(N)]


def saturating(scatter: float) -> Curve:
    """A token accuracy under training: 0.3 at first, 0.8 in the end."""
    return lambda draw: [
        0.8 - 0.5 * math.exp(-t / 30) + draw.gauss(0, scatter) for t in range(N)
    ]


def climbing(scatter: float) -> Curve:
    """A rise that never ends."""
    return lambda draw: [0.1 + 0.8 * t / N + draw.gauss(0, scatter) for t in range(N)]
