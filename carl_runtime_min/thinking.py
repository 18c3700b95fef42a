"""The field of models that think before they answer, told apart."""

from __future__ import annotations

from typing import Any

import torch

from carl_runtime_min.field import order_parameter
from carl_runtime_min.grpo import CoherenceReward


class ThinkingReward(CoherenceReward):
    """R_CARL, logging also the mean Phi of the thinking, and of the answer after it.

    `end` is the id of the token that ends the thinking, None for a tokenizer without.
    """

    def __init__(self, width: int, weights: list[float], end: int | None) -> None:
        super().__init__(width, weights)
        self.end = end

    def __call__(self, completion_ids: list[Any], **given: Any) -> list[float | None]:
        thought, answered = [], []
        rows = zip(completion_ids, given.get("token_entropies", ()), strict=False)
        for ids, entropy in rows:
            phi = order_parameter(entropy, self.width)  # [T]
            ends = [i + 1 for i, token in enumerate(ids) if token == self.end]
            cut = ends[-1] if ends else len(ids)
            if len(ids) == len(phi):  # no token of a tool is among them
                thought.append(phi[:cut])
                answered.append(phi[cut:])
        for name, parts in (("thinking", thought), ("answer", answered)):
            if sum(map(len, parts)):
                given["log_metric"](f"phi/{name}", torch.cat(parts).nanmean().item())
        return super().__call__(completion_ids, **given)
