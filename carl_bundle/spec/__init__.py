"""What to train (TrainSpec), with what model (ModelSpec), in how much memory."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from carl_bundle.spec.model_spec import ModelSpec
    from carl_bundle.spec.train_spec import TrainSpec
    from carl_bundle.spec.vram import VRAMBudget

__all__ = ["ModelSpec", "TrainSpec", "VRAMBudget"]

_HOME = {
    "ModelSpec": "model_spec",
    "TrainSpec": "train_spec",
    "VRAMBudget": "vram",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
