"""Reporting to tracking services, whose failure never stops a run."""

from __future__ import annotations

import logging
import os
from typing import Any

from carl_runtime_min.run import RunDir


class GuardedTracker:
    """Passes every event to a tracker until it fails once."""

    def __init__(self, tracker: Any) -> None:
        self.tracker = tracker

    def __getattr__(self, event: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> None:
            try:
                getattr(self.tracker, event)(*args, **kwargs)
            except Exception as error:
                logging.warning("tracking stopped: %s: %s", type(error).__name__, error)
                self.tracker = None

        return call if self.tracker else lambda *args, **kwargs: None


def trackers(names: list[str], run: RunDir) -> list[Any]:
    """Callbacks for the named services; one that cannot start is left out."""
    from transformers.integrations import get_reporting_integration_callbacks

    os.environ.setdefault("WANDB_PROJECT", run.path.name)
    started = []
    for name in names:
        try:
            started += [
                GuardedTracker(kind())
                for kind in get_reporting_integration_callbacks([name])
            ]
        except Exception as error:
            logging.warning("not tracking with %s: %s", name, error)
    return started
