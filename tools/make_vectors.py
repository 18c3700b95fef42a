"""Writes the reference vectors that every script's `--self-test` recomputes.

    python -m tools.make_vectors

The values come from the library in float64 where it can, so run this by hand only, and
read the difference before it is committed.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from carl_runtime_min.field import order_parameter, token_field
from carl_runtime_min.rewards import carl_reward

TARGET = Path(__file__).parent.parent / "carl_bundle" / "recipes" / "self_test.json"


def vectors() -> dict[str, object]:
    """Two completions of four and three tokens over five words."""
    scale = torch.tensor([0.25, 1.0, 4.0, 0.5, 6.0, 2.0, 1.5, 3.0]).reshape(2, 4, 1)
    waves = torch.sin(torch.arange(40, dtype=torch.float64)).reshape(2, 4, 5)
    logits = (waves * scale).round(decimals=3).float()  # [B, T, V]
    token_ids = logits.argmax(-1)
    token_ids[0, 1] = 0
    mask = torch.tensor([[True] * 4, [True] * 3 + [False]])
    entropy, log_probs = token_field(logits, token_ids)
    phi = order_parameter(entropy, 5)
    reward = carl_reward(phi, log_probs, mask)
    exact = {"logits": logits, "entropy": entropy, "log_probs": log_probs, "phi": phi}
    return {
        "vocab_size": 5,
        "token_ids": token_ids.tolist(),
        "mask": mask.tolist(),
        **{name: rounded(value) for name, value in exact.items()},
        "reward": rounded(reward),
    }


def rounded(values: torch.Tensor) -> object:
    """Nested lists with seven decimals: more than the tolerance needs."""
    return json.loads(
        json.dumps(values.tolist()), parse_float=lambda x: round(float(x), 7)
    )


if __name__ == "__main__":
    TARGET.write_text(json.dumps(vectors(), indent=1) + "\n", encoding="utf-8")
    print(f"wrote {TARGET.name}")
