"""The constants of the coherence papers. Reported with a run; no reward uses them."""

from __future__ import annotations

KAPPA = 64 / 3
SIGMA = 3 / 16


def t_star(dimension: int) -> int:
    """T*(d) = floor(kappa * d) for a hidden size d, in exact integers."""
    return 64 * dimension // 3
