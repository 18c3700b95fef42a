"""R_CARL: three components of a completion's field, and their weighted sum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from carl_runtime_min.errors import UsageError

DELTA = 0.03  # a change of Phi larger than this is a transition
MAX_SCALE = 15  # blocks of at most 2^15 tokens


class Components(NamedTuple):
    """Each [B], float64, in [0, 1]; NaN where a token of the row is not finite."""

    coherence: Tensor
    cloud: Tensor
    discontinuity: Tensor


def carl_reward(
    phi: Tensor,
    log_probs: Tensor,
    mask: Tensor,
    weights: Sequence[float] = (0.5, 0.3, 0.2),
    junctions: Tensor | None = None,
) -> Tensor:
    """R_CARL of each completion, [B] float64; `weights` in the order of Components.

    0.0 for a completion without tokens, NaN for one with a value that is not finite.
    The other arguments are those of `coherence_components`.
    """
    a, b, c = weights
    parts = coherence_components(phi, log_probs, mask, junctions)
    reward = a * parts.coherence + b * parts.cloud + c * parts.discontinuity
    return reward.where(mask.bool().any(-1), 0.0)


def coherence_components(
    phi: Tensor, log_probs: Tensor, mask: Tensor, junctions: Tensor | None = None
) -> Components:
    """The components of a right-padded batch of completions.

    Args:
        phi, log_probs: [B, T]; padding may hold anything.
        mask: [B, T], true on the completion's tokens, which come first in the row.
        junctions: [B, T], true at t where tokens were removed between t-1 and t, so
            that the change from t-1 to t is no transition. Default: nowhere.

    Raises:
        UsageError: Shapes differ, or the mask is not right-padded (the one time the
            host waits for the device).
    """
    if not phi.shape == log_probs.shape == mask.shape or phi.dim() != 2:
        raise UsageError("phi, log_probs and mask must share one shape [B, T]")
    mask = mask.bool()
    if (mask[:, 1:] & ~mask[:, :-1]).any():
        raise UsageError(
            "the mask is not right-padded",
            remedy="move the policy's tokens to the front of their rows",
        )
    length = mask.sum(-1)  # [B]
    phi = phi.where(mask, 0.0).double()
    log_probs = log_probs.where(mask, 0.0).double()
    broken = ~(phi.sum(-1) + log_probs.sum(-1)).isfinite()  # [B]
    linked = mask[:, 1:]  # [B, T - 1]
    if junctions is not None:
        linked = linked & ~junctions[:, 1:].bool()
    parts = Components(
        coherence=_coherence(scale_coherence(phi, length)),
        cloud=(log_probs.exp() * phi).sum(-1) / length.clamp(min=1),
        discontinuity=_discontinuity(phi, linked),
    )
    return Components(*(part.masked_fill(broken, math.nan) for part in parts))


def scale_coherence(phi: Tensor, length: Tensor) -> Tensor:
    """c_j over blocks of 2^j tokens: [B, T], [B] -> [B, scales], NaN without a block.

    c_j = 1 - mean population standard deviation of the complete blocks. Neighbouring
    blocks merge by Chan's update, so all scales together cost O(BT).
    """
    scales = min(phi.shape[-1].bit_length(), MAX_SCALE + 1)
    c = phi.new_ones(len(phi), scales)  # one token alone does not deviate: c_0 = 1
    c.masked_fill_(length[:, None] == 0, math.nan)
    mean, variance = phi, torch.zeros_like(phi)  # of each block
    for j in range(1, scales):
        n = mean.shape[-1] // 2 * 2
        a, b = mean[:, 0:n:2], mean[:, 1:n:2]  # [B, n / 2] each
        apart = (a - b) / 2
        variance = (variance[:, 0:n:2] + variance[:, 1:n:2]) / 2 + apart**2
        mean = (a + b) / 2
        blocks = length // 2**j  # [B]
        complete = torch.arange(mean.shape[-1], device=phi.device) < blocks[:, None]
        spread = (variance.sqrt() * complete).sum(-1) / blocks  # [B], 0/0 is NaN
        c[:, j] = (1 - spread).clamp(min=0)
    return c


def _coherence(c: Tensor) -> Tensor:
    """Mean of c_j under the weights 2^(j/2); 0.5 where there is no scale."""
    j = torch.arange(c.shape[-1], device=c.device, dtype=c.dtype)
    weight = 2 ** (j / 2) * ~c.isnan()  # [B, scales]
    return ((weight * c.nan_to_num()).sum(-1) / weight.sum(-1)).nan_to_num(nan=0.5)


def _discontinuity(phi: Tensor, linked: Tensor) -> Tensor:
    """Mean worth of the transitions, 0.5 without any: [B, T], [B, T-1] -> [B]."""
    before, change = phi[:, :-1], phi[:, 1:] - phi[:, :-1]
    rising, falling = linked & (change > DELTA), linked & (change < -DELTA)
    low, high = before < 0.5, before > 0.7

    def count(places: Tensor) -> Tensor:
        return places.sum(-1).double()  # [B]

    worth = 0.8 * count(rising & low) + 0.3 * count(rising & ~low)
    worth = worth + 0.2 * count(falling & high) + 0.5 * count(falling & ~high)
    return (worth / count(rising | falling)).nan_to_num(nan=0.5)
