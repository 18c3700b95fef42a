"""Reporting to tracking services, whose failure never stops a run."""

from __future__ import annotations

import logging
import os
from typing import Any


class Tracker:
    """Passes a trainer's events to a tracking service until it fails once."""

    def __init__(self, name: str) -> None:
        self.name, self.service, self.failed = name, None, False

    def __getattr__(self, event: str) -> Any:
        def pass_on(*args: Any, **kwargs: Any) -> None:
            from transformers.integrations import get_reporting_integration_callbacks

            try:
                os.environ.setdefault("WANDB_PROJECT", args[0].project)
                if not self.service:
                    self.service = get_reporting_integration_callbacks([self.name])[0]()
                getattr(self.service, event)(*args, **kwargs)
            except Exception as error:
                self.failed = True
                logging.warning("not tracking with %s: %r", self.name, error)

        return (lambda *args, **kwargs: None) if self.failed else pass_on
