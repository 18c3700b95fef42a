"""A config.json that lies is one clear error."""

from __future__ import annotations

from typing import Any

import pytest

from carl_bundle.errors import UsageError
from carl_bundle.spec.model_spec import ModelSpec
from tests.spec.conftest import QWEN3, MakeModel


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": "four"}, "num_hidden_layers is 'four', not a whole"),
        ({"num_hidden_layers": -4}, "num_hidden_layers is -4"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"num_hidden_layers": 4.5}, "num_hidden_layers is 4.5"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"vocab_size": 10**30}, "vocab_size is 1000"),
        ({"hidden_size": [64]}, r"hidden_size is \[64\]"),
        ({"head_dim": 0}, "head_dim is 0"),
        ({"layer_types": "full_attention"}, "layer_types is 'full_attention'"),
        ({"layer_types": [["full_attention"]]}, "layer_types is"),
        ({"architectures": "Qwen3ForCausalLM"}, "architectures is"),
        ({"is_encoder_decoder": "no"}, "is_encoder_decoder is 'no'"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings is 1"),
        ({"dtype": {"a": 1}}, "dtype is"),
        ({"quantization_config": "gptq"}, "quantization_config is 'gptq'"),
        ({"quantization_config": {"quant_method": 3}}, "quant_method is 3"),
        ({"rope_parameters": {"factor": "4"}}, "rope_parameters.factor is '4'"),
    ],
)
def test_a_config_that_lies_is_one_error_naming_the_field(
    make_model: MakeModel, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        ModelSpec.from_pretrained(make_model({**QWEN3, **change}))

    assert "config.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        ("[1]", "holds list, not an object"),
        ('{"a": NaN}', "holds NaN"),
        ('{"a": 1, "a": 2}', "the key 'a' stands there twice"),
        ('{"a": ' + "9" * 5000 + "}", "digits"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": "' + "x" * 11_000_000 + '"}', "larger than"),
    ],
    ids=range(8),
)
def test_a_file_that_is_no_config_is_one_error(
    make_model: MakeModel, text: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        ModelSpec.from_pretrained(make_model(text))
