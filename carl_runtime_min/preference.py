"""What preference training shows of the field: the Phi of both kinds of answers.

Compose a mixin with the trainer:

    class Trainer(PreferencePhi, DPOTrainer): ...
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from carl_runtime_min.field import order_parameter, token_field
from carl_runtime_min.fit import head_width
from carl_runtime_min.resume import CHECKPOINT_HOOKS, ExactResume

LOSS_HOOKS = {**CHECKPOINT_HOOKS, "_compute_loss": "model, inputs, return_outputs"}
ORPO_HOOKS = {
    **CHECKPOINT_HOOKS,
    "concatenated_forward": "model, batch",
    "concatenated_inputs": "batch, is_encoder_decoder, padding_value",
    "store_metrics": "metrics, train_eval",
}


class PreferencePhi(ExactResume):
    """Mixin of DPO and KTO: logs the mean Phi of chosen and of rejected tokens."""

    def _compute_loss(self, model: Any, inputs: Any, return_outputs: bool) -> Any:
        passes = []

        def policy(**batch: Any) -> Any:  # the reference is called by another name
            passes.append(model(**batch))
            return passes[-1]

        loss = super()._compute_loss(policy, inputs, return_outputs)
        mask = inputs["completion_mask"][:, 1:].bool()  # [B, T]
        scored = [one.entropy for one in passes if one.get("entropy") is not None]
        rows = torch.arange(len(mask), device=mask.device)
        chosen = inputs["label"].bool() if "label" in inputs else rows < len(mask) // 2
        self.log_phi(scored[-1][:, -mask.shape[1] :].detach(), mask, chosen)
        return loss

    def log_phi(self, entropy: Tensor, mask: Tensor, chosen: Tensor) -> None:
        """Log the mean Phi of the tokens in `mask`; [B, T], [B, T], [B]."""
        phi = order_parameter(entropy, head_width(self.model))  # [B, T]
        for name, rows in (("chosen", chosen), ("rejected", ~chosen)):
            own = mask & rows[:, None]  # [B, T]
            sums = torch.stack([phi[own].sum(), own.sum()])
            total, count = self.accelerator.reduce(sums, "sum").tolist()
            if count:
                self.keep(f"phi/{name}", total / count)

    def keep(self, name: str, value: float) -> None:
        mode = "train" if self.model.training else "eval"
        self._metrics[mode][name].append(value)


class ORPOPhi(PreferencePhi):
    """Mixin of ORPO, whose trainer computes the logits itself."""

    def concatenated_forward(self, model: Any, batch: Any) -> Any:
        scored = super().concatenated_forward(model, batch)
        both = self.concatenated_inputs(batch, padding_value=self.padding_value)
        labels = both["concatenated_labels"][:, 1:].to(scored[2].device)  # [2B, T]
        rows = zip([*scored[2], *scored[3]], labels.clamp(min=0), strict=True)
        entropy = torch.stack([token_field(logits, ids)[0] for logits, ids in rows])
        chosen = torch.arange(len(labels), device=labels.device) < len(labels) // 2
        self.log_phi(entropy, labels != -100, chosen)
        return scored

    def keep(self, name: str, value: float) -> None:
        training = self.model.training
        mode, prefix = ("train", "") if training else ("eval", "eval_")
        self.store_metrics({f"{prefix}{name}": value}, mode)
