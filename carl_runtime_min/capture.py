"""The field while completions are generated, so that it costs no forward of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from carl_runtime_min.errors import UsageError
from carl_runtime_min.field import token_field
from carl_runtime_min.grpo import CoherentPolicy
from carl_runtime_min.head import CLOSE


class Capture:
    """The first logits processor: it sees raw logits, and their token a call later."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature
        self.logits: Any = None
        self.fields: list[Tensor] = []  # [2, B] each: H and log p of a token

    def __call__(self, ids: Tensor, logits: Tensor) -> Tensor:
        if self.logits is not None:
            self.take(ids[:, -1])
        self.logits = logits.clone()  # later processors may write to theirs
        return logits

    def take(self, chosen: Tensor) -> None:
        field = token_field(self.logits, chosen, self.temperature, overwrite=True)
        self.fields.append(torch.stack(field))


class CapturedScores(CoherentPolicy):
    """Takes the field from the logits that the tokens were drawn from.

    Only where one plain `generate` draws all tokens of a completion, with the numbers
    that the trainer scores with: the first batch is compared with a pass of its own.
    """

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        peft = hasattr(self.model, "get_base_model")
        model = self.model.get_base_model() if peft else self.model
        make, capture = model._get_logits_processor, Capture(self.temperature)

        def processors(*args: Any, **kwargs: Any) -> Any:
            made = make(*args, **kwargs)
            made.insert(0, capture)
            return made

        model._get_logits_processor = processors
        try:
            drawn = super()._generate_single_turn(*args, **kwargs)
        finally:
            del model._get_logits_processor
        last = [row[-1] for row in drawn[0]]  # of no use to rows that ended before
        capture.take(torch.tensor(last, device=capture.logits.device))
        self.captured = torch.stack(capture.fields, -1)  # [2, B, T]
        return drawn

    @torch.no_grad()
    def score(self, count: int | None = None) -> list[dict[str, Tensor]]:
        entropy, log_probs = self.captured
        fields = self.fields(log_probs, entropy)
        gap = 0.0 if self.told else self.tell("generation", fields, super().score())
        if not gap <= CLOSE:
            remedy = "set carl.field: pass, for one more forward of each batch"
            reason = f"generation and scoring differ by {gap:.1e} ln V, over {CLOSE}"
            raise UsageError(reason, remedy=remedy)
        return fields[:count]
