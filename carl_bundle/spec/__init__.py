"""What to train (TrainSpec), with what model (ModelSpec), in how much memory."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from carl_bundle.spec.defaults import resolve
    from carl_bundle.spec.freeze import freeze
    from carl_bundle.spec.load import load
    from carl_bundle.spec.train_spec import TrainSpec

__all__ = ["TrainSpec", "freeze", "load", "resolve"]

_HOME = {
    "TrainSpec": "train_spec",
    "freeze": "freeze",
    "load": "load",
    "resolve": "defaults",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
