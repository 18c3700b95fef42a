"""The exact versions a script asks for; a test compares them with constraints.txt.

Exact, since private hooks of trl and the numerics of the others are relied on.
"""

from __future__ import annotations

REQUIRES_PYTHON = ">=3.11"

# Later than every release below; what they depend on is resolved as of this day.
EXCLUDE_NEWER = "2026-11-22"

PINS = {
    "accelerate": "1.15.0",
    "antlr4-python3-runtime": "4.13.2",
    "bitsandbytes": "0.50.2",
    "datasets": "5.2.0",
    "deepspeed": "0.19.8",
    "huggingface-hub": "2.4.0",
    "math-verify": "0.9.0",
    "numpy": "2.3.5",
    "peft": "0.21.2",
    "pillow": "12.3.0",
    "reasoning-gym": "0.1.25",
    "safetensors": "0.8.0",
    "tensorboard": "2.21.0",
    "tokenizers": "0.23.3",
    "torch": "2.13.0",
    "torchvision": "0.28.0",
    "trackio": "0.43.0",
    "transformers": "5.23.0",
    "trl": "1.16.0",
    "vllm": "0.29.0",
    "wandb": "0.31.0",
}

# What `import x` needs: module -> distribution. A longer module name wins over its
# parent only in addition: `torch.utils.tensorboard` needs torch too.
DISTRIBUTIONS = {
    "accelerate": "accelerate",
    "datasets": "datasets",
    "huggingface_hub": "huggingface-hub",
    "math_verify": "math-verify",
    "numpy": "numpy",
    "peft": "peft",
    "reasoning_gym": "reasoning-gym",
    "safetensors": "safetensors",
    "tensorboard": "tensorboard",
    "tokenizers": "tokenizers",
    "torch": "torch",
    "torch.utils.tensorboard": "tensorboard",
    "trackio": "trackio",
    "transformers": "transformers",
    "trl": "trl",
    "wandb": "wandb",
}

# What is pinned with another one: trl's numerics are accelerate's too, and the grammars
# by which math-verify reads LaTeX are made for one version of antlr.
COMPANIONS = {
    "math-verify": ("antlr4-python3-runtime",),
    "trl": ("accelerate",),
}
