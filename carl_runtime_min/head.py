"""TRL's fused output head, and the model's plain logits where that head goes wrong.

It sums e^z z with no maximum taken off: H is NaN where a logit is -inf, and loses
digits where logits are far from 0. `token_field` has neither fault.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from carl_runtime_min.field import token_field
from carl_runtime_min.fit import head_width

CLOSE = 1e-5  # of ln V: what float32 leaves between two orders of the same sums


class PlainHead:
    """Stands for a model where TRL asks for its fused head: scores its plain logits."""

    eps = 0.0  # of the logits' type

    def __init__(self, model: Any, keep: int, temperature: float) -> None:
        self.model, self.keep, self.temperature = model, keep, temperature

    def __call__(self, labels: Tensor, fused_lm_head: bool, **inputs: Any) -> Any:
        inputs |= {"use_cache": False, "logits_to_keep": self.keep + 1}
        logits = self.model(**inputs).logits[:, -self.keep - 1 : -1]  # [B, T, V]
        self.eps = torch.finfo(logits.dtype).eps
        chosen = labels[:, -self.keep :].clamp(min=0)
        entropy, log_probs = token_field(logits, chosen, self.temperature)
        return SimpleNamespace(log_probs=log_probs, entropy=entropy)


class CheckedHead:
    """Mixin: scores by the fused head, unless the first batch or a NaN forbids it."""

    plain_head: bool | None = None  # for the whole run; known after the first batch

    def head_scores(self, ids: Tensor, mask: Tensor, keep: int) -> Tensor:
        """log p and H of the last `keep` tokens of each row, [2, B, keep], in nats."""
        size = self.args.per_device_train_batch_size
        plain = PlainHead(self.model, keep, self.temperature)

        def by(model: Any, last: int | None = None) -> Tensor:
            score, rows = self._get_per_token_logps_and_entropies, mask[:last]
            given = {"batch_size": size, "compute_entropy": True}
            found = score(model, ids[:last], rows, keep, **given)
            return torch.stack(found[:2]).float().where(rows[:, -keep:] > 0, 0)

        if self.plain_head:
            return by(plain)
        scores = by(self.model)
        if self.plain_head is None:
            gap = (scores[:, :size] - by(plain, size)).abs()
            gap /= math.log(head_width(self.model))
            # Half precision moves single tokens by more than its eps, not their mean.
            same = (gap.amax() <= CLOSE) | (gap.mean() <= plain.eps)
            self.plain_head = self.any_process(~same)
            if self.plain_head:
                off = f"TRL's fused head is off by {gap.amax().item():.1e} ln V"
                self.run.say(f"field: {off}, the model's plain logits take its place")
        return by(plain) if self.unsound(scores[1]) else scores

    def unsound(self, entropy: Tensor) -> bool:
        """Whether the fused head's H, [B, T], is of no use in any process."""
        return bool(self.plain_head) or self.any_process(~entropy.isfinite().all())

    def any_process(self, flag: Tensor) -> bool:
        """What one process finds, all act on: a forward may need all of them."""
        return bool(self.accelerator.reduce(flag.float()).item())
