"""Golden values of field, rewards, gate and cascade for `golden/<case>/fields.json`."""

from __future__ import annotations

import importlib
import math
from types import ModuleType
from typing import Any

import torch

FIELDS = ["default"]
"""Cases with a fields.json."""


def _named(script: ModuleType | None, module: str, name: str) -> Any:
    """A definition of the script, or of the library when there is no script."""
    found = script or importlib.import_module(f"carl_runtime_min.{module}")
    return getattr(found, name)


def fields(script: ModuleType | None = None) -> dict[str, Any]:
    """What a script (None: the library) computes on fixed inputs."""
    waves = torch.sin(torch.arange(4 * 9 * 7, dtype=torch.float64) * 1.7)
    scale = torch.tensor([0.1, 1.0, 5.0, 20.0], dtype=torch.float64).view(4, 1, 1)
    logits = (waves.view(4, 9, 7) * scale).float()  # [B, T, V]
    ids = torch.arange(36).view(4, 9) % 7
    mask = torch.arange(9) < torch.tensor([[9], [5], [1], [0]])
    entropy, log_probs = _named(script, "field", "token_field")(logits, ids, 0.8)
    phi = _named(script, "field", "order_parameter")(entropy, 7)
    parts = _named(script, "rewards", "coherence_components")(phi, log_probs, mask)
    reward = _named(script, "rewards", "carl_reward")(phi, log_probs, mask)
    gate = _named(script, "gate", "PhaseTransitionGate")(0.9, 5, 3)
    cascade = _named(script, "cascade", "Cascade")(maximum=1.0)
    fired, weights = [], []
    for step in range(80):
        metric = 1 / (1 + math.exp((40 - step) / 8)) + 0.05 * math.sin(step)
        fired.append(float(gate.check(metric, 1.0, step)))
        cascade.observe(metric, step)
        weights.append(cascade.weight(step))
    advantages = torch.linspace(-1, 1, 8)
    tasks = torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0])[:, None]
    damped = _named(script, "cascade", "damp_ties")(advantages, tasks, 4, 0.25)
    return {
        "entropy": entropy.tolist(),
        "log_probs": log_probs.tolist(),
        "phi": phi.tolist(),
        "coherence": parts.coherence.tolist(),
        "cloud": parts.cloud.tolist(),
        "discontinuity": parts.discontinuity.tolist(),
        "reward": reward.tolist(),
        "gate": fired,
        "cascade_weight": weights,
        "damped": damped.tolist(),
    }
