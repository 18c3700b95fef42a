"""Does this machine compute what the reference machine computed?"""

from __future__ import annotations

from typing import Any

import torch

from carl_runtime_min.field import order_parameter, token_field
from carl_runtime_min.rewards import carl_reward

TOLERANCE = 1e-5


def phi_again(vectors: dict[str, Any]) -> dict[str, torch.Tensor]:
    entropy = torch.tensor(vectors["entropy"])  # [B, T]
    return {"phi": order_parameter(entropy, vectors["vocab_size"])}


def reward_again(vectors: dict[str, Any]) -> dict[str, torch.Tensor]:
    log_probs, mask = torch.tensor(vectors["log_probs"]), torch.tensor(vectors["mask"])
    phi = phi_again(vectors)["phi"]  # [B, T]
    return {"reward": carl_reward(phi, log_probs, mask)}


def field_again(vectors: dict[str, Any]) -> dict[str, torch.Tensor]:
    logits = torch.tensor(vectors["logits"])  # [B, T, V]
    entropy, log_probs = token_field(logits, torch.tensor(vectors["token_ids"]))
    return {"entropy": entropy, "log_probs": log_probs}


def self_test(vectors: dict[str, Any], found: dict[str, torch.Tensor]) -> int:
    """Compare with the reference vectors; print how far off, return 0 or 1."""
    errors = {}
    for name, values in found.items():
        expected = torch.tensor(vectors[name], dtype=torch.float64)
        errors[name] = (values.double() - expected).abs().max().item()
        print(f"self-test: {name} differs by at most {errors[name]:.1e}")
    good = all(error <= TOLERANCE for error in errors.values())
    print(f"self-test: {'OK' if good else 'FAILED'}, the bound is {TOLERANCE:.0e}")
    return 0 if good else 1
