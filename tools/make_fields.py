"""Golden values of field, rewards, gate and cascade for `golden/<case>/fields.json`."""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

FIELDS = ["default", "rloo", "dpo", "kto", "orpo"]
"""Cases with a fields.json."""

GIVEN = {
    "token_field": ("entropy", "log_probs"),
    "order_parameter": ("phi",),
    "coherence_components": ("coherence", "cloud", "discontinuity"),
    "carl_reward": ("reward",),
    "PhaseTransitionGate": ("gate",),
    "Cascade": ("cascade_weight",),
    "damp_ties": ("damped",),
}
"""The values that come from each definition; a script need not hold them all."""


def loaded(path: Path) -> ModuleType:
    """A script, imported as a module: it trains nothing."""
    spec = importlib.util.spec_from_file_location(f"golden_{path.parent.name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _named(script: ModuleType | None, module: str, name: str) -> Any:
    """A definition of the script, or of the library if no script holds it."""
    library = importlib.import_module(f"carl_runtime_min.{module}")
    return getattr(script, name, getattr(library, name))


def _held(script: ModuleType | None, values: dict[str, Any]) -> dict[str, Any]:
    """The values that the script has a definition of; all without a script."""
    absent = [name for name in GIVEN if script and not hasattr(script, name)]
    foreign = {value for name in absent for value in GIVEN[name]}
    return {name: value for name, value in values.items() if name not in foreign}


def scored(
    script: ModuleType | None,
    logits: Tensor,
    ids: Tensor,
    mask: Tensor,
    temperature: float,
) -> dict[str, Tensor]:
    """Field and rewards of a batch ([B, T, V], [B, T], [B, T]), as a script has them.

    None stands for the library.
    """
    width = logits.shape[-1]
    entropy, log_probs = _named(script, "field", "token_field")(
        logits, ids, temperature
    )
    phi = _named(script, "field", "order_parameter")(entropy, width)
    components = _named(script, "rewards", "coherence_components")
    return _held(
        script,
        {
            "entropy": entropy,
            "log_probs": log_probs,
            "phi": phi,
            **components(phi, log_probs, mask)._asdict(),
            "reward": _named(script, "rewards", "carl_reward")(phi, log_probs, mask),
        },
    )


def fields(script: ModuleType | None = None) -> dict[str, Any]:
    """What a script (None: the library) computes on fixed inputs."""
    waves = torch.sin(torch.arange(4 * 9 * 7, dtype=torch.float64) * 1.7)
    scale = torch.tensor([0.1, 1.0, 5.0, 20.0], dtype=torch.float64).view(4, 1, 1)
    logits = (waves.view(4, 9, 7) * scale).float()  # [B, T, V]
    ids = torch.arange(36).view(4, 9) % 7
    mask = torch.arange(9) < torch.tensor([[9], [5], [1], [0]])
    tensors = scored(script, logits, ids, mask, 0.8)
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
    values = {"gate": fired, "cascade_weight": weights, "damped": damped.tolist()}
    given = {name: tensor.tolist() for name, tensor in tensors.items()}
    return given | _held(script, values)
