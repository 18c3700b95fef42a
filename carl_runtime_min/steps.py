"""What an optimizer step was made of and led to, as digests that can be compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

DIGESTED = 1 << 28  # weights hashed after each step; of more, only at checkpoints


def digest(*values: Any) -> str:
    """SHA-256 of tensors, of what holds them, and of what JSON can hold."""
    found = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            found.update(f"{value.dtype}{list(value.shape)}".encode())
            flat = value.detach().cpu().reshape(-1).view(torch.uint8)
            found.update(flat.numpy().data)
        elif isinstance(value, Mapping):  # processors of images make no plain dict
            for key in sorted(value):
                found.update(key.encode())
                add(value[key])
        elif isinstance(value, list | tuple):
            for each in value:
                add(each)
        elif hasattr(value, "tobytes"):  # the pixels of an image
            found.update(value.tobytes())
        else:
            found.update(json.dumps(value, default=lambda x: type(x).__name__).encode())

    add(values)
    return found.hexdigest()
