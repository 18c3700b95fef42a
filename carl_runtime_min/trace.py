"""One completion's field, what can be measured from it, and a probe that does so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from carl_runtime_min.errors import UsageError
from carl_runtime_min.field import order_parameter, token_field
from carl_runtime_min.rewards import (
    DELTA,
    carl_reward,
    coherence_components,
    scale_coherence,
)
from carl_runtime_min.snapshot import CoherenceSnapshot
from carl_runtime_min.strict_json import json_value

BARS = "▁▂▃▄▅▆▇█"


def draw_bars(values: Tensor, low: float, high: float, width: int) -> str:
    """Values [T] as at most `width` bars between `low` and `high`; "?" for NaN."""
    drawn = ""
    for part in values.tensor_split(min(width, len(values))) if len(values) else ():
        height = (float(part.double().mean()) - low) / (high - low)
        top = len(BARS) - 1
        drawn += (
            "?" if math.isnan(height) else BARS[min(max(round(height * top), 0), top)]
        )
    return drawn


def mean_and_std(values: Tensor) -> tuple[float, float]:
    """Mean and population standard deviation of [T], NaN without values."""
    values = values.double()
    mean = values.mean()
    return float(mean), float((values - mean).square().mean().sqrt())


@dataclass(frozen=True, eq=False)
class CoherenceTrace:
    """The field of one completion: T tokens that the policy produced, in order.

    Make one with `from_logits` or `from_entropy`. Means over no tokens are NaN.

    Attributes:
        phi: [T] float64. entropy, log_probs: [T] float32, nats.
        vocab_size: V, the width of the output head.
        top_k_mass: [T] probability of the k likeliest tokens; None without logits.
        junctions: [T] bool, true where tokens were removed just before.
    """

    phi: Tensor
    entropy: Tensor
    log_probs: Tensor
    vocab_size: int
    junctions: Tensor
    top_k_mass: Tensor | None = None
    step: int | None = None

    @classmethod
    def from_logits(
        cls,
        logits: Tensor,
        token_ids: Tensor,
        temperature: float = 1.0,
        *,
        top_k: int = 10,
        junctions: Tensor | None = None,
        step: int | None = None,
    ) -> CoherenceTrace:
        """From logits [T, V], row t predicting the token t of `token_ids` [T]."""
        entropy, log_probs = token_field(logits, token_ids, temperature)
        best = logits.topk(min(top_k, logits.shape[-1]), dim=-1)  # [T, k]
        _, log_p_best = token_field(logits, best.indices[:, 0], temperature)  # [T]
        behind = (best.values.float() - best.values[:, :1].float()) / temperature
        return cls.from_entropy(
            entropy,
            log_probs,
            logits.shape[-1],
            top_k_mass=behind.exp().sum(-1) * log_p_best.exp(),
            junctions=junctions,
            step=step,
        )

    @classmethod
    def from_entropy(
        cls,
        entropy: Tensor,
        log_probs: Tensor,
        vocab_size: int,
        *,
        top_k_mass: Tensor | None = None,
        junctions: Tensor | None = None,
        step: int | None = None,
    ) -> CoherenceTrace:
        """From entropies and log-probabilities [T] that were measured elsewhere.

        Raises:
            UsageError: Shapes differ, or an entropy that V tokens cannot have.
        """
        if entropy.dim() != 1 or entropy.shape != log_probs.shape:
            raise UsageError("entropy and log_probs must share one shape [T]")
        if (entropy > math.log(max(vocab_size, 1)) + 0.01).any():
            raise UsageError(
                f"an entropy of {entropy.max():.3f} nats exceeds ln({vocab_size})",
                remedy="pass the width of the output head, padded rows included",
            )
        if junctions is None:
            junctions = torch.zeros_like(entropy, dtype=torch.bool)
        return cls(
            phi=order_parameter(entropy, vocab_size),
            entropy=entropy.float(),
            log_probs=log_probs.float(),
            vocab_size=vocab_size,
            junctions=junctions,
            top_k_mass=top_k_mass,
            step=step,
        )

    @property
    def n_tokens(self) -> int:
        """T."""
        return len(self.phi)

    def batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """(phi, log_probs, mask), each [1, T], for the functions of rewards.py."""
        mask = torch.ones_like(self.junctions)
        return self.phi[None], self.log_probs[None], mask[None]

    def components(self) -> dict[str, float]:
        """The three components of R_CARL."""
        parts = coherence_components(*self.batch(), self.junctions[None])
        return {name: float(part) for name, part in parts._asdict().items()}

    def reward(self, weights: Sequence[float] = (0.5, 0.3, 0.2)) -> float:
        """R_CARL."""
        return float(carl_reward(*self.batch(), weights, self.junctions[None]))

    def coherence_by_scale(self) -> dict[int, float]:
        """{j: c_j} for blocks of 2^j tokens."""
        length = torch.tensor([self.n_tokens], device=self.phi.device)
        scales = scale_coherence(self.phi[None], length)[0, : self.n_tokens]
        return dict(enumerate(scales.tolist()))

    def changes(self) -> Tensor:
        """Phi_{t+1} - Phi_t, [T-1], NaN across a junction."""
        return self.phi.diff().masked_fill(self.junctions[1:], math.nan)

    def crystallization_positions(self) -> list[int]:
        """Each t where Phi rises by more than DELTA from t to t+1."""
        return [t for t, change in enumerate(self.changes().tolist()) if change > DELTA]

    def melting_positions(self) -> list[int]:
        """Each t where Phi falls by more than DELTA from t to t+1."""
        return [
            t for t, change in enumerate(self.changes().tolist()) if change < -DELTA
        ]

    def transition_sharpness(self, positions: Sequence[int]) -> float:
        """Mean |Phi_{t+1} - Phi_t| over those t that have a successor, else 0."""
        sizes = self.changes().abs().tolist()
        found = [sizes[t] for t in positions if 0 <= t < len(sizes)]
        found = [size for size in found if not math.isnan(size)]
        return math.fsum(found) / max(len(found), 1)

    def kuramoto_R(self, positions: Sequence[int] | None = None) -> float:  # noqa: N802
        """|mean e^(i pi Phi)| over all tokens or those at `positions`; 0 below two."""
        phi = self.phi
        if positions is not None:
            phi = phi[[t for t in positions if 0 <= t < self.n_tokens]]
        if len(phi) < 2:
            return 0.0
        angle = math.pi * phi
        return float(torch.hypot(angle.cos().mean(), angle.sin().mean()))

    def segment_phi_means(self, boundaries: Sequence[int]) -> list[float]:
        """Mean Phi of each segment: tokens before, between and after the boundaries."""
        return [float(part.mean()) for part in self.phi.tensor_split(list(boundaries))]

    def sparkline(self, width: int = 60) -> str:
        """Phi between 0 and 1."""
        return draw_bars(self.phi, 0.0, 1.0, width)

    def entropy_sparkline(self, width: int = 60) -> str:
        """Entropy between 0 and ln V."""
        return draw_bars(self.entropy, 0.0, math.log(self.vocab_size), width)

    def to_dict(self) -> dict[str, Any]:
        """JSON values; a number that is not finite becomes None."""
        mass = self.top_k_mass
        fields: dict[str, Any] = json_value(
            {
                "step": self.step,
                "vocab_size": self.vocab_size,
                "phi": self.phi.tolist(),
                "entropy": self.entropy.tolist(),
                "log_probs": self.log_probs.tolist(),
                "junctions": self.junctions.nonzero().flatten().tolist(),
                "top_k_mass": None if mass is None else mass.tolist(),
            }
        )
        return fields

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> CoherenceTrace:
        """The trace of a `to_dict()`; None becomes NaN."""

        def numbers(values: list[float | None]) -> Tensor:
            return torch.tensor([math.nan if x is None else x for x in values])

        entropy, mass = numbers(record["entropy"]), record["top_k_mass"]
        junctions = torch.zeros(len(entropy), dtype=torch.bool)
        junctions[record["junctions"]] = True
        return cls.from_entropy(
            entropy,
            numbers(record["log_probs"]),
            record["vocab_size"],
            top_k_mass=None if mass is None else numbers(mass),
            junctions=junctions,
            step=record["step"],
        )

    def to_snapshot(self) -> CoherenceSnapshot:
        """The measurements alone."""
        phi, entropy = mean_and_std(self.phi), mean_and_std(self.entropy)
        surprisal, parts = mean_and_std(-self.log_probs), self.components()
        rises, falls = self.crystallization_positions(), self.melting_positions()
        mass = self.top_k_mass
        return CoherenceSnapshot(
            step=self.step,
            n_tokens=self.n_tokens,
            phi_mean=phi[0],
            phi_std=phi[1],
            entropy_mean=entropy[0],
            entropy_std=entropy[1],
            surprisal_mean=surprisal[0],
            surprisal_std=surprisal[1],
            n_crystallizations=len(rises),
            n_meltings=len(falls),
            defect_density=(len(rises) + len(falls)) / max(self.n_tokens, 1),
            multiscale_coherence=parts["coherence"],
            cloud_quality=parts["cloud"],
            discontinuity_score=parts["discontinuity"],
            reward=self.reward(),
            kuramoto_R=self.kuramoto_R(),
            top_k_mass=None if mass is None else mean_and_std(mass)[0],
            coherence_by_scale=self.coherence_by_scale(),
            phi_trajectory=self.phi[:: max(1, self.n_tokens // 64)].tolist(),
        )


@dataclass(frozen=True)
class CoherenceProbe:
    """Measures completions of one model, each on its own: it keeps nothing.

    Attributes:
        vocab_size: V, the width of the model's output head.
        temperature: The policy is softmax(logits / temperature).
        top_k: How many tokens count as the likeliest.
    """

    vocab_size: int
    temperature: float = 1.0
    top_k: int = 10

    def measure_trace(
        self, logits: Tensor, token_ids: Tensor, step: int | None = None
    ) -> CoherenceTrace:
        """The trace of one completion: logits [T, V], token_ids [T]."""
        if logits.shape[-1] != self.vocab_size:
            raise UsageError(
                f"logits are {logits.shape[-1]} wide, the probe was made for "
                f"{self.vocab_size}",
                remedy="make the probe with the width of the output head",
            )
        return CoherenceTrace.from_logits(
            logits, token_ids, self.temperature, top_k=self.top_k, step=step
        )

    def measure(
        self, logits: Tensor, token_ids: Tensor, step: int | None = None
    ) -> CoherenceSnapshot:
        """The measurements of one completion: logits [T, V], token_ids [T]."""
        return self.measure_trace(logits, token_ids, step).to_snapshot()

    def measure_from_entropy(
        self, entropy: Tensor, log_probs: Tensor, step: int | None = None
    ) -> CoherenceSnapshot:
        """The same from entropies and log-probabilities [T]; no top-k mass."""
        return CoherenceTrace.from_entropy(
            entropy, log_probs, self.vocab_size, step=step
        ).to_snapshot()
