"""Speed of R_CARL over a ragged batch: against a loop over its tokens, and in a step.

python -m benchmarks.rewards
"""

from __future__ import annotations

import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch

from benchmarks.measure import PAIRS, Row, by_turns, ratio, report
from carl_runtime_min.rewards import carl_reward
from tests import reference

WARM = 3  # steps that are not counted


def row_reward(phi: np.ndarray, log_probs: np.ndarray) -> float:
    """R_CARL of one completion: NumPy over its blocks, Python over its transitions."""
    weights, values = [], []
    for j in range(min(int(math.log2(len(phi))), 15) + 1):
        blocks = phi[: len(phi) // 2**j * 2**j].reshape(-1, 2**j)
        values.append(np.clip(1 - blocks.std(axis=1).mean(), 0, 1))
        weights.append(2 ** (j / 2))
    coherence = np.average(values, weights=weights)
    cloud = np.mean(np.exp(log_probs) * phi)
    worths = []
    for t in range(len(phi) - 1):
        change = phi[t + 1] - phi[t]
        if change > 0.03:
            worths.append(0.8 if phi[t] < 0.5 else 0.3)
        elif change < -0.03:
            worths.append(0.2 if phi[t] > 0.7 else 0.5)
    discontinuity = np.mean(worths) if worths else 0.5
    return float(0.5 * coherence + 0.3 * cloud + 0.2 * discontinuity)


def against_loop() -> list[Row]:
    """How often the batch is as fast as the loop, and how exact."""
    found, worst = [], 0.0
    for rows, tokens, limit in ((64, 1024, 8), (64, 256, None), (8, 512, None)):
        generator = torch.Generator().manual_seed(0)
        phi = torch.rand(rows, tokens, generator=generator, dtype=torch.float64)
        log_probs = -3 * torch.rand(rows, tokens, generator=generator)
        lengths = torch.randint(
            tokens * 7 // 8, tokens + 1, (rows,), generator=generator
        )
        mask = torch.arange(tokens) < lengths[:, None]
        cut = [
            (phi[i, :n].numpy(), log_probs[i, :n].double().numpy())
            for i, n in enumerate(lengths.tolist())
        ]
        ours = partial(carl_reward, phi, log_probs, mask)
        taken = by_turns(
            {
                "loop": lambda rows=cut: [row_reward(*row) for row in rows],
                "ours": ours,
                "again": ours,
            }
        )
        name = f"reward of {rows} x {tokens}: loop / batch"
        times = taken["loop"], taken["ours"], limit
        row = ratio(name, *times, control=taken["again"], least=True, form=".1f")
        found.append(row)
        truth = [reference.reward(*(x.tolist() for x in row)) for row in cut]
        errors = (abs(a - b) for a, b in zip(ours().tolist(), truth, strict=True))
        worst = max(worst, *errors)
    name = "largest error of a reward against the per-token reference"
    return [*found, Row(name, worst, 1e-6, form=".1e")]


def share_of_a_step() -> Row:
    """Reward function, cascade and ties over the steps that they are part of."""
    from benchmarks.step import ALIGNED, Turns, timer, trainer
    from carl_runtime_min import grpo
    from carl_runtime_min.cascade import damp_ties

    calls: list[float] = []

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **given: Any) -> Any:
            begun = time.thread_time()
            try:
                return function(*args, **given)
            finally:
                calls.append(time.thread_time() - begun)

        return call

    turns, count = Turns(1), PAIRS + WARM
    turns.done(0)
    with tempfile.TemporaryDirectory() as folder:
        made = trainer(Path(folder), grpo.CoherentPolicy, count, ALIGNED)
        steps = timer(turns, 0, 1)
        made.add_callback(steps)
        made.reward_funcs[-1] = timed(made.reward_funcs[-1])
        for name in ("begin", "observe"):
            setattr(made.cascade, name, timed(getattr(made.cascade, name)))
        with mock.patch.object(grpo, "damp_ties", timed(damp_ties)):
            made.train()
    each = len(calls) // count
    maths = [sum(calls[i : i + each]) for i in range(0, len(calls), each)]
    name = f"reward maths ({statistics.median(maths) * 1e3:.1f} ms) / a GRPO step"
    return ratio(name, maths[WARM:], steps.seconds[WARM:], 0.001, form=".2%")


def rows() -> list[Row]:
    torch.set_num_threads(1)
    return [*against_loop(), share_of_a_step()]


if __name__ == "__main__":
    sys.exit(report(rows()))
