"""Does this machine compute what the reference machine computed?"""

from __future__ import annotations

from typing import Any

import torch

from carl_runtime_min.field import order_parameter, token_field
from carl_runtime_min.rewards import carl_reward

TOLERANCE = 1e-5


def self_test(vectors: dict[str, Any]) -> int:
    """Recompute the reference vectors; print how far off, return 0 or 1."""
    logits, ids = torch.tensor(vectors["logits"]), torch.tensor(vectors["token_ids"])
    entropy, log_probs = token_field(logits, ids)  # [B, T, V], [B, T] -> [B, T] each
    phi = order_parameter(entropy, logits.shape[-1])
    found = {"entropy": entropy, "log_probs": log_probs, "phi": phi}
    mask = torch.tensor(vectors["mask"])
    found["reward"] = carl_reward(phi, log_probs, mask)
    worst = 0.0
    for name, values in found.items():
        error = (values.double() - torch.tensor(vectors[name]).double()).abs().max()
        worst = max(worst, error.item())
        print(f"self-test: {name} differs by {error.item():.1e} at most")
    good = worst <= TOLERANCE
    print(f"self-test: {'OK' if good else 'FAILED'}, the bound is {TOLERANCE:.0e}")
    return 0 if good else 1
