"""Digests tell any two batches apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BatchFeature

from carl_runtime_min.steps import digest


def image(value: int) -> Any:
    return Image.new("RGB", (2, 2), (value, 0, 0))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.zeros(2), torch.zeros(2, 1)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int32)),
        ([{"prompt": "a"}], [{"prompt": "b"}]),
        (BatchFeature({"x": torch.zeros(1)}), BatchFeature({"x": torch.ones(1)})),
        ([{"images": [image(1)]}], [{"images": [image(2)]}]),
        (np.zeros(2), np.ones(2)),
    ],
)
def test_a_digest_follows_all_that_a_batch_holds(one: Any, other: Any) -> None:
    assert digest(one) == digest(one)
    assert digest(one) != digest(other)
