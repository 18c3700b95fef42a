"""Exact counts, by building the model without weights."""

from __future__ import annotations

import pytest

from carl_bundle.errors import UsageError
from carl_bundle.spec.model_spec import ModelSpec
from tests.spec.conftest import QWEN3, MakeModel

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def test_counts_are_those_of_the_real_model(make_model: MakeModel) -> None:
    directory = make_model(QWEN3)
    measured = ModelSpec.from_pretrained(directory).measure()
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.from_pretrained(directory)
    )

    assert measured.parameters == sum(p.numel() for p in model.parameters())
    assert measured.active_parameters == measured.parameters
    assert len(measured.lora_modules) == 4 * 7
    q, k, o, mlp = 64 + 64, 64 + 32, 64 + 64, 64 + 96
    per_layer = q + 2 * k + o + 3 * mlp
    assert measured.lora_parameters(8) == 8 * 4 * per_layer


def test_a_token_meets_a_part_of_the_experts(make_model: MakeModel) -> None:
    config = {
        **QWEN3,
        "model_type": "qwen3_moe",
        "architectures": ["Qwen3MoeForCausalLM"],
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
    }
    measured = ModelSpec.from_pretrained(make_model(config)).measure()
    experts = 4 * 8 * 3 * 64 * 32

    assert measured.active_parameters == measured.parameters - experts * 6 // 8


def test_the_text_class_of_a_composite_checkpoint_can_be_measured(
    make_model: MakeModel,
) -> None:
    text = {key: QWEN3[key] for key in QWEN3 if key.startswith(("num", "hidden"))}
    directory = make_model(
        {
            "model_type": "qwen3_5",
            "architectures": ["Qwen3_5ForCausalLM"],
            "text_config": {**text, "vocab_size": 320, "pad_token_id": 0},
            "vision_config": {"depth": 1, "hidden_size": 32, "num_heads": 2},
        }
    )
    names = ModelSpec.from_pretrained(directory).measure().lora_modules

    assert names
    assert not [name for name in names if "visual" in name]


def test_a_config_that_builds_no_model_is_one_error(make_model: MakeModel) -> None:
    config = {**QWEN3, "hidden_act": "no_such_function"}
    model = ModelSpec.from_pretrained(make_model(config))
    with pytest.raises(UsageError, match="cannot build Qwen3ForCausalLM") as caught:
        model.measure()

    assert "\n" not in str(caught.value)
