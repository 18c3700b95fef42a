"""Cuts a script from `carl_runtime_min`: closure, order, CONFIG, render, check."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from carl_bundle.bundler.render import Bundler, bundle, render

__all__ = ["Bundler", "bundle", "render"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from carl_bundle.bundler import render as module

    return getattr(module, name)
