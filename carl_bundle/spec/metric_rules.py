"""Rules for the names of metrics: a misspelt one would be found in training only."""

from __future__ import annotations

from collections.abc import Iterator

from carl_bundle.errors import Problem
from carl_bundle.spec.names import nearest
from carl_bundle.spec.train_spec import TrainSpec

_FIELD = ("loss", "entropy", "phi", "num_tokens")
_CHOSEN = [f"{name}/chosen" for name in ("logps", "logits", "phi", "rewards")]
_ANSWERS = (*_CHOSEN, *(name.replace("chosen", "rejected") for name in _CHOSEN))
_STATS = ("mean", "std")
_LENGTHS = ("mean", "min", "max")
_SAMPLED = (
    *_FIELD,
    "reward",
    "reward_std",
    "frac_reward_zero_std",
    "kl",
    "rewards/non_finite",
    "rewards/carl/mean",
    "rewards/carl/std",
    "completions/clipped_ratio",
    *(f"completions/{name}_length" for name in _LENGTHS),
    *(f"completions/{name}_terminated_length" for name in _LENGTHS),
    *(f"clip_ratio/{name}" for name in ("low_mean", "low_min", "region_mean")),
    *(f"clip_ratio/{name}" for name in ("high_mean", "high_max")),
)
GATE = ("mean_token_accuracy", "entropy", "num_tokens", "aux_loss")
"""What TRL's SFT trainer keeps for each step."""

EVALUATED: dict[str, tuple[str, ...]] = {
    "sft": (*_FIELD, "mean_token_accuracy", "aux_loss"),
    "dpo": (
        *(*_FIELD, *_ANSWERS, "mean_token_accuracy", "aux_loss"),
        *("rewards/accuracies", "rewards/margins"),
    ),
    "kto": (*_FIELD, *_ANSWERS, "kl", "rewards/margins", "aux_loss"),
    "orpo": (
        *("loss", *_ANSWERS, "rewards/accuracies", "rewards/margins"),
        *("nll_loss", "log_odds_ratio", "log_odds_chosen", "aux_loss"),
    ),
    "grpo": _SAMPLED,
    "rloo": _SAMPLED,
}
"""What an evaluation of the pinned TRL reports, by method."""


def metric_rules(spec: TrainSpec) -> Iterator[Problem]:
    """Yield metrics that no trainer reports."""
    if "sft" in spec.phases and spec.gate.metric not in GATE:
        yield Problem(
            "gate.metric",
            f"SFT reports no {spec.gate.metric!r}",
            nearest(spec.gate.metric, GATE),
        )
    metric = (spec.eval.metric or "").removeprefix("eval_")
    own = any(reward.function for reward in spec.rewards)  # it may log what it likes
    if spec.eval.every is None or spec.method == "pipeline" or own:
        return
    scores = [f"rewards/{reward.name}/{x}" for reward in spec.rewards for x in _STATS]
    known = [*EVALUATED[spec.method], *scores]
    if metric not in known:
        yield Problem(
            "eval.metric",
            f"an evaluation of {spec.method} reports no {metric!r}",
            nearest(metric, known),
        )
