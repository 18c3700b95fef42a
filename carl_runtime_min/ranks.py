"""How many processes a run has, where it needs several."""

from __future__ import annotations

import os

from carl_runtime_min.errors import UsageError


def check_ranks() -> None:
    """UsageError unless there are several processes to spread a model over."""
    if int(os.environ.get("WORLD_SIZE", 1)) < 2:
        remedy = "run it where there are several, or set sharding: none"
        raise UsageError("sharding needs two GPUs or more", remedy=remedy)
