"""Numbers that are not finite: found, named, and left out or the end of the phase."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from carl_runtime_min.errors import CarlError
from carl_runtime_min.run import Run


class FiniteSteps:
    """Mixin: no update comes from a loss or a gradient that is not finite.

    What one process finds, all act on: they stop, or leave the update out ("skip").
    """

    run: Run
    non_finite = "stop"
    finite = True  # the losses of this step
    skipped = 0  # updates

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        broken = [not self.finite, not math.isfinite(norm or 0)]
        found = torch.tensor(broken, device=self.args.device).float()
        loss, gradient = self.accelerator.reduce(found).tolist()
        self.finite = True
        if loss or gradient:
            self.skipped += 1
            self.not_finite("the loss" if loss else "the gradient")
            self.run.summarise(
                "summary", **{f"{self.run.phase}_skipped_steps": self.skipped}
            )
            for weight in model.parameters():
                weight.grad = None  # the optimizer then leaves it and its state alone
        return norm

    def log(self, logs: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        logs.update({"skipped_steps": self.skipped} if self.skipped else {})
        super().log(logs, *args, **kwargs)

    def not_finite(self, what: str, samples: Sequence[dict[str, Any]] = ({},)) -> None:
        """Record that `what` is not finite in this step. CarlError if it is to stop."""
        step, remedy = self.state.global_step + 1, "or leave it out: non_finite: skip"
        for sample in samples:
            self.run.append("non_finite", {"step": step, "what": what, **sample})
        if self.non_finite == "stop":
            remedy = f"look at non_finite.jsonl for what led to it, {remedy}"
            raise CarlError(f"{what} is not finite in step {step}", remedy=remedy)
        self.run.say(f"{self.run.phase} {step}: {what} is not finite, and left out")


def nan_is_infinite(reward: Any) -> Any:
    """A reward function with inf for NaN, which TRL would take for None."""

    def marked(found: Any) -> list[Any]:
        return [math.inf if x is not None and math.isnan(x) else x for x in found]

    @functools.wraps(reward)
    def called(**given: Any) -> list[Any]:
        return marked(reward(**given))

    @functools.wraps(reward)
    async def awaited(**given: Any) -> list[Any]:
        return marked(await reward(**given))

    return awaited if inspect.iscoroutinefunction(reward) else called


def correlation(x: Tensor, y: Tensor) -> float | None:
    """Pearson's of two [B], where both are known; None if one of them is constant."""
    pair = torch.stack([x, y]).double()[:, (x + y).isfinite()]  # [2, known]
    varies = pair.numel() and (pair.amax(1) > pair.amin(1)).all()
    return torch.corrcoef(pair)[0, 1].item() if varies else None
