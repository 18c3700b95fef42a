"""R_CARL: three components of a completion's field, and their weighted sum.

Each component lies in [0, 1]: *coherence* is how little Phi varies within blocks of 2^j
tokens (longer blocks weigh more), *cloud* the mean of p * Phi, *discontinuity* the mean
worth of Phi's jumps. R_CARL = 0.50 coherence + 0.30 cloud + 0.20 discontinuity. All of
it is float64, over a right-padded batch of completions of any lengths.
"""

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
    """R_CARL of each completion, [B] float64, `weights` in the order of Components.

    0 for a completion without tokens, NaN for one with a value that is not finite.
    """
    return weigh(coherence_components(phi, log_probs, mask, junctions), mask, weights)


def weigh(parts: Components, mask: Tensor, weights: Sequence[float]) -> Tensor:
    """The weighted sum of components, [B] each; `mask` [B, T] is true on tokens."""
    a, b, c = weights
    reward = a * parts.coherence + b * parts.cloud + c * parts.discontinuity
    return reward.where(mask.bool().any(-1), 0.0)


def coherence_components(
    phi: Tensor, log_probs: Tensor, mask: Tensor, junctions: Tensor | None = None
) -> Components:
    """The components of completions, all arguments [B, T].

    `mask` is true on a completion's tokens, which come first in the row; padding may
    hold anything. `junctions` is true at t where tokens were removed between t-1 and t:
    Phi does not jump there. UsageError: shapes differ, or the mask is not right-padded.
    """
    if not phi.shape == log_probs.shape == mask.shape or phi.dim() != 2:
        raise UsageError("phi, log_probs and mask must share one shape [B, T]")
    mask = mask.bool()
    if (mask[:, 1:] & ~mask[:, :-1]).any():  # the host waits for the device, once
        remedy = "move the policy's tokens to the front of their rows"
        raise UsageError("the mask is not right-padded", remedy=remedy)
    phi, log_probs = (x.where(mask, 0.0).double() for x in (phi, log_probs))
    length = mask.sum(-1)  # [B]
    linked = mask[:, 1:]  # [B, T - 1]
    if junctions is not None:
        linked = linked & ~junctions[:, 1:].bool()
    c = scale_coherence(phi, length)  # [B, scales]
    scale = torch.arange(c.shape[-1], device=c.device, dtype=c.dtype)
    weight = 2 ** (scale / 2) * ~c.isnan()
    coherence = (weight * c.nan_to_num()).sum(-1) / weight.sum(-1)
    parts = Components(
        coherence=coherence.nan_to_num(nan=0.5),
        cloud=(log_probs.exp() * phi).sum(-1) / length.clamp(min=1),
        discontinuity=transition_worth(phi, linked).nan_to_num(nan=0.5),
    )
    broken = ~(phi.sum(-1) + log_probs.sum(-1)).isfinite()  # [B]
    return Components(*(part.masked_fill(broken, math.nan) for part in parts))


def scale_coherence(phi: Tensor, length: Tensor) -> Tensor:
    """c_j over blocks of 2^j tokens: [B, T], [B] -> [B, scales], NaN without a block.

    c_j = 1 - mean population standard deviation of Phi in the complete blocks. Two
    neighbours merge into a block of the next scale by Chan's update.
    """
    mean, variance = phi, torch.zeros_like(phi)  # of each block
    c = [length.double() / length]  # one token does not deviate; 0/0 is NaN
    for j in range(1, min(phi.shape[-1].bit_length(), MAX_SCALE + 1)):
        n, blocks = mean.shape[-1] // 2 * 2, length // 2**j  # blocks: [B], complete
        a, b = mean[:, 0:n:2], mean[:, 1:n:2]  # [B, n / 2] each
        apart = (a - b) / 2
        variance = (variance[:, 0:n:2] + variance[:, 1:n:2]) / 2 + apart**2
        mean = (a + b) / 2
        complete = torch.arange(mean.shape[-1], device=phi.device) < blocks[:, None]
        spread = (variance.sqrt() * complete).sum(-1) / blocks  # [B]
        c.append((1 - spread).clamp(min=0))
    return torch.stack(c, -1)


def transition_worth(phi: Tensor, linked: Tensor) -> Tensor:
    """Mean worth of the jumps, NaN without any: [B, T], [B, T - 1] -> [B]."""
    before, change = phi[:, :-1], phi.diff()
    rises, falls = linked & (change > DELTA), linked & (change < -DELTA)
    low, high = before < 0.5, before > 0.7

    def count(places: Tensor) -> Tensor:
        return places.sum(-1).double()  # [B]

    worth = 0.8 * count(rises & low) + 0.3 * count(rises & ~low)
    worth += 0.2 * count(falls & high) + 0.5 * count(falls & ~high)
    return worth / count(rises | falls)
