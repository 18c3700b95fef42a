"""Speed of R_CARL over a ragged batch against a loop over its tokens.

python -m benchmarks.rewards
"""

from __future__ import annotations

import math
import os
import sys

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch

from benchmarks.measure import by_turns, conclude
from carl_runtime_min.rewards import carl_reward
from tests import reference


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


def main() -> int:
    torch.set_num_threads(1)
    print("reward of a batch            loop ms   carl_reward ms   ratio   max error")
    ratio, worst = {}, 0.0
    for rows, tokens in ((64, 1024), (64, 256), (8, 512)):
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
        taken = by_turns(
            {
                "loop": lambda rows=cut: [row_reward(*row) for row in rows],
                "ours": lambda x=phi, y=log_probs, m=mask: carl_reward(x, y, m),
            },
            rounds=15,
        )
        ratio[rows, tokens] = taken["loop"] / taken["ours"]
        ours = carl_reward(phi, log_probs, mask).tolist()
        truth = [reference.reward(*(x.tolist() for x in row)) for row in cut]
        error = max(abs(a - b) for a, b in zip(ours, truth, strict=True))
        worst = max(worst, error)
        print(
            f"  B = {rows:<3} T = {tokens:<15}{taken['loop'] * 1e3:8.1f}"
            f"{taken['ours'] * 1e3:17.2f}{ratio[rows, tokens]:8.1f}{error:12.1e}"
        )
    return conclude(
        {
            "B = 64, T = 1024 at least 8 times as fast": ratio[64, 1024] >= 8,
            "within 1e-6 of the per-token reference": worst <= 1e-6,
        }
    )


if __name__ == "__main__":
    sys.exit(main())
