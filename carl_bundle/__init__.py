"""CARL: coherence-aware reinforcement learning, as one self-contained script.

`bundle(TrainSpec())` returns the text of a training script. Names are imported when
they are used, so that `import carl_bundle` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from carl_bundle.bundler.render import bundle
    from carl_bundle.errors import (
        BundleError,
        CarlError,
        ConfigurationError,
        RemoteError,
        SpecError,
        UsageError,
        UserCodeError,
    )
    from carl_bundle.spec.model_spec import ModelSpec
    from carl_bundle.spec.train_spec import TrainSpec
    from carl_bundle.spec.vram import VRAMBudget

__version__ = "0.1.0"

_HOMES = {
    "BundleError": "carl_bundle.errors",
    "CarlError": "carl_bundle.errors",
    "ConfigurationError": "carl_bundle.errors",
    "ModelSpec": "carl_bundle.spec",
    "RemoteError": "carl_bundle.errors",
    "SpecError": "carl_bundle.errors",
    "TrainSpec": "carl_bundle.spec",
    "UsageError": "carl_bundle.errors",
    "UserCodeError": "carl_bundle.errors",
    "VRAMBudget": "carl_bundle.spec",
    "bundle": "carl_bundle.bundler.render",
}

__all__ = [
    "BundleError",
    "CarlError",
    "ConfigurationError",
    "ModelSpec",
    "RemoteError",
    "SpecError",
    "TrainSpec",
    "UsageError",
    "UserCodeError",
    "VRAMBudget",
    "__version__",
    "bundle",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
