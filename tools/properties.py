"""Properties of R_CARL that a user should know, in numbers.

python -m tools.properties
"""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor

from carl_runtime_min.field import order_parameter, token_field
from carl_runtime_min.rewards import carl_reward, coherence_components

VOCABULARY = 32_000


def show(title: str, phi: Tensor, p: Tensor) -> float:
    """Print the mean components of completions, [B, T] each; return mean R_CARL."""
    mask = torch.ones_like(phi).bool()
    parts = coherence_components(phi, p.log(), mask)
    reward = carl_reward(phi, p.log(), mask).mean().item()
    cells = [*(part.mean().item() for part in parts), reward]
    print(f"{title:<40}" + "".join(f"{cell:>15.3f}" for cell in cells))
    return reward


def levels() -> None:
    """Coherence rewards any constant level; cloud quality tells them apart."""
    for phi, p, what in (
        (0.0, 1 / VOCABULARY, "uniform policy, every token"),
        (0.5, 0.5, "constant phi 0.5, p 0.5"),
        (1.0, 1.0, "certain of every token"),
    ):
        show(what, torch.full((1, 256), phi), torch.full((1, 256), p))


def noise() -> None:
    """Short noise looks more coherent than long noise."""
    generator = torch.Generator().manual_seed(0)
    for tokens in (4, 16, 64, 256, 1024):
        phi = torch.rand(2000, tokens, generator=generator)
        show(f"phi uniform in [0, 1], {tokens} tokens", phi, torch.full_like(phi, 0.5))


def temperatures() -> None:
    """The same logits at three temperatures."""
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(64, VOCABULARY, generator=generator)
    ids = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    for tau in (0.7, 1.0, 1.3):
        entropy, log_probs = token_field(logits, ids, tau)
        phi = order_parameter(entropy, VOCABULARY)
        show(
            f"the same 64 tokens at temperature {tau}", phi[None], log_probs.exp()[None]
        )


def threshold() -> None:
    """A rise from just above 0.5 is worth less than one from just below."""
    start = 0.5 * math.log(VOCABULARY)
    rewards = []
    for shift in (-5e-6, 5e-6):
        entropy = torch.full((1, 64), 0.2 * math.log(VOCABULARY), dtype=torch.float64)
        entropy[0, 0] = start + shift
        phi = order_parameter(entropy, VOCABULARY)
        p = torch.full_like(phi, 0.5)
        rewards.append(carl_reward(phi, p.log(), torch.ones_like(phi)).item())
    print(f"1e-5 nats at phi = 0.5 move R_CARL by {abs(rewards[1] - rewards[0]):.3f}")


def main() -> int:
    names = ("coherence", "cloud", "discontinuity", "R_CARL")
    print(" " * 40 + "".join(f"{name:>15}" for name in names))
    levels()
    noise()
    temperatures()
    threshold()
    return 0


if __name__ == "__main__":
    sys.exit(main())
