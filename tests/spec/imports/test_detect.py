"""The keys of a file tell whose it is, or the user does."""

from __future__ import annotations

from typing import Any

import pytest

from carl_bundle.errors import UsageError
from carl_bundle.spec.imports import detect


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"model_name_or_path": "a/b", "dataset_name": "a/b"}, "trl"),
        ({"model_name_or_path": "a/b", "use_peft": True}, "trl"),
        ({"base_model": "a/b", "datasets": [], "micro_batch_size": 1}, "axolotl"),
        ({"model_name_or_path": "a/b", "stage": "sft"}, "llamafactory"),
        ({"model_name_or_path": "a/b", "cutoff_len": 9}, "llamafactory"),
    ],
)
def test_keys_that_only_one_tool_has_decide(
    settings: dict[str, Any], kind: str
) -> None:
    assert detect(settings, "x.yaml") == kind


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_name_or_path": "a/b", "learning_rate": 1.0}, "holds no key that only"),
        ({}, "holds no key that only"),
        ({"stage": "sft", "base_model": "a/b"}, "axolotl: base_model"),
        ({"model": "a/b", "method": "sft"}, "looks like a carl.yaml already"),
        ({"base_model": "a/b", "dataset_repo": "a/b"}, "looks like a carl.yaml"),
    ],
)
def test_anything_else_is_for_the_user_to_say(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        detect(settings, "x.yaml")
    assert "--from trl|axolotl|llamafactory" in str(caught.value.remedy)
