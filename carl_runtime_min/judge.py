"""Scoring that may hang or crash, in a process of its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

SECONDS = 10.0  # for one answer
FIRST = 120.0  # for the first one, with the imports


class Judge:
    """Calls `function` in another process: what takes too long is ended, and scores 0.

    A process that has died takes too long.
    """

    def __init__(self, function: Callable[..., float]) -> None:
        self.function = function
        self.pool: Any = None

    def score(self, *arguments: Any) -> float:
        seconds = SECONDS if self.pool else FIRST
        self.pool = self.pool or multiprocessing.get_context("spawn").Pool(1)
        try:
            pending = self.pool.apply_async(self.function, arguments)
            return float(pending.get(seconds))
        except multiprocessing.TimeoutError:
            self.pool.terminate()
            self.pool = None
            return 0.0
