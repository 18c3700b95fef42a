"""The per-token field: how concentrated the policy was where it chose each token.

With m = max z, s = sum e^(z-m) and t = sum e^(z-m)(z-m): H = log s - t/s and
log p = (z - m) - log s. Taking m off first keeps float32 exact at any level. The order
parameter is Phi = 1 - H / ln V, with V the width of the output head.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from carl_runtime_min.errors import UsageError

CHUNK = 1 << 20  # logits worked on at once: two float32 scratch buffers of 4 MB


@torch.no_grad()
def token_field(
    logits: Tensor,
    token_ids: Tensor,
    temperature: float = 1.0,
    overwrite: bool = False,
) -> tuple[Tensor, Tensor]:
    """Entropy H and log p of each token under softmax(logits / temperature), in nats.

    logits [..., V], where row i predicts token i, and token_ids [...] give (H, log p),
    float32 [...] each; NaN where a row holds NaN or +inf, or nothing but -inf. With
    `overwrite`, logits in float32 hold no more of use afterwards, and are not copied.
    """
    if not temperature > 0:
        raise UsageError(f"temperature must be positive, not {temperature}")
    vocab = logits.shape[-1]
    rows, ids = logits.reshape(-1, vocab), token_ids.reshape(-1, 1)  # [N, V], [N, 1]
    n = min(len(rows), CHUNK // vocab) or 1
    new = partial(torch.empty, dtype=torch.float32, device=logits.device)
    entropy, log_probs = new(len(rows)), new(len(rows))
    owned = overwrite and logits.dtype == torch.float32
    scratch = new(1 if owned else 2, n, vocab)
    for start in range(0, len(rows), n):
        here = slice(start, start + n)
        z, e = scratch[-1, : len(rows[here])], scratch[0, : len(rows[here])]  # [n, V]
        z = rows[here] if owned else z.copy_(rows[here])
        z -= z.amax(-1, keepdim=True)
        if temperature != 1:
            z /= temperature  # after m is off: a large logit has few digits to lose
        chosen = z.gather(-1, ids[here]).squeeze(-1)  # [n]
        z.clamp_(min=-200)  # e^-200 is 0 in float32, and 0 * -200 is 0: 0 * -inf is not
        s = torch.exp(z, out=e).sum(-1)  # [n]
        t = e.mul_(z).sum(-1)  # [n]
        entropy[here] = (s.log() - t / s).clamp(max=math.log(vocab))
        log_probs[here] = chosen - s.log()
    return entropy.reshape(token_ids.shape), log_probs.reshape(token_ids.shape)


def order_parameter(entropy: Tensor, vocab_size: int) -> Tensor:
    """Phi = 1 - H / ln V in [0, 1], float64 [...]; NaN where H is not finite.

    Thresholds of the reward sit at 0.5 and 0.7: every caller takes Phi from here.
    """
    if vocab_size < 2:
        raise UsageError(f"Phi needs at least two tokens to choose from: {vocab_size}")
    phi = 1 - entropy.double() / math.log(vocab_size)
    return phi.clamp(0, 1).where(entropy.isfinite(), math.nan)


class PolicyField(NamedTuple):
    """A batch of fields over the policy's own tokens, each tensor [B, T]."""

    phi: Tensor  # float64
    log_probs: Tensor
    mask: Tensor  # bool, right-padded
    junctions: Tensor  # bool: removed tokens lie between t-1 and t


def policy_field(
    entropy: Tensor, log_probs: Tensor, mask: Tensor, vocab_size: int
) -> PolicyField:
    """The field from scores that a trainer already holds.

    Tokens that the policy did not produce (tool results, padding) are taken out: what
    is left moves to the front of its row, and a token that follows a removed one is
    marked as a junction.

    Args:
        entropy, log_probs: [B, T], nats, at the policy's temperature.
        mask: [B, T], true where the policy produced the token; holes are allowed.
        vocab_size: The width of the output head.
    """
    mask = mask.bool()
    order = mask.logical_not().int().argsort(dim=-1, stable=True)  # [B, T]
    kept = mask.gather(-1, order)
    junctions = torch.zeros_like(kept)
    junctions[:, 1:] = kept[:, 1:] & (order.diff(dim=-1) != 1)
    return PolicyField(
        phi=order_parameter(entropy, vocab_size).gather(-1, order),
        log_probs=log_probs.gather(-1, order),
        mask=kept,
        junctions=junctions,
    )
