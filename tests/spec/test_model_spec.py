"""What a model is, read from its small files."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from carl_bundle.errors import UsageError
from carl_bundle.spec.model_spec import ModelSpec
from carl_bundle.spec.unknown import Unknown
from tests.spec.conftest import QWEN3, MakeModel


def test_a_plain_model(make_model: MakeModel) -> None:
    model = ModelSpec.from_pretrained(make_model(QWEN3))

    assert model.architecture.name == "Qwen3ForCausalLM"
    assert model.architecture.auto_class == "causal-lm"
    assert model.architecture.modalities == ("text",)
    assert (model.vocab_size, model.context_length, model.layers) == (320, 512, 4)
    assert model.experts is None
    assert model.quantization is None
    assert model.thinking is None
    assert model.weight_dtype == "bfloat16"
    # 4 layers x 2 (keys, values) x 2 heads x 16 x 2 bytes
    assert model.kv_bytes_per_token == 4 * 2 * 2 * 16 * 2
    json.dumps(model.as_dict())


def test_what_the_file_leaves_out_comes_from_the_class(make_model: MakeModel) -> None:
    model = ModelSpec.from_pretrained(make_model({"model_type": "llama"}))

    assert model.architecture.name == "LlamaForCausalLM"
    assert model.vocab_size == 32000
    assert model.context_length == 2048
    assert model.kv_bytes_per_token == 32 * 2 * 4096 * 2


def test_the_width_of_layers_that_differ_is_that_of_the_widest(
    make_model: MakeModel,
) -> None:
    widths = {"intermediate_size": [64, 128, 96]}
    assert ModelSpec.from_pretrained(
        make_model({**QWEN3, **widths})
    ).intermediate_size == max(widths["intermediate_size"])
    bad = make_model({**QWEN3, "intermediate_size": [64, "wide"]})
    with pytest.raises(UsageError, match="intermediate_size is 'wide'"):
        ModelSpec.from_pretrained(bad)


def test_derived_defaults_follow_the_file(make_model: MakeModel) -> None:
    config = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 8}
    model = ModelSpec.from_pretrained(make_model({**config, "num_hidden_layers": 2}))

    assert model.kv_bytes_per_token == 2 * 2 * 8 * 8 * 2


def test_old_names_of_fields_are_read(make_model: MakeModel) -> None:
    config = {"model_type": "gpt2", "n_embd": 64, "n_layer": 3, "n_positions": 99}
    model = ModelSpec.from_pretrained(make_model({**config, "n_head": 4}))

    assert (model.hidden_size, model.layers, model.context_length) == (64, 3, 99)


@pytest.mark.parametrize(
    ("config", "auto_class", "modalities"),
    [
        (
            {"model_type": "qwen3_vl", "text_config": {}, "vision_config": {}},
            "image-text-to-text",
            ("text", "image"),
        ),
        (
            {
                "model_type": "qwen3_5",
                "architectures": ["Qwen3_5ForConditionalGeneration"],
            },
            "image-text-to-text",
            ("text", "image"),
        ),
        (
            {"model_type": "qwen3_5", "architectures": ["Qwen3_5ForCausalLM"]},
            "causal-lm",
            ("text",),
        ),
        ({"model_type": "gemma3_text"}, "causal-lm", ("text",)),
        (
            {"model_type": "qwen2_audio", "audio_config": {}},
            "multimodal-lm",
            ("text", "audio"),
        ),
    ],
)
def test_the_checkpoint_decides_what_loads_it(
    make_model: MakeModel,
    config: dict[str, Any],
    auto_class: str,
    modalities: tuple[str, ...],
) -> None:
    architecture = ModelSpec.from_pretrained(make_model(config)).architecture

    assert architecture.auto_class == auto_class
    assert architecture.modalities == modalities


def test_text_fields_come_from_the_text_configuration(make_model: MakeModel) -> None:
    nested = {
        "model_type": "gemma3",
        "text_config": {"vocab_size": 999, "num_hidden_layers": 12},
        "vision_config": {"hidden_size": 32},
    }
    model = ModelSpec.from_pretrained(make_model(nested))

    assert (model.vocab_size, model.layers) == (999, 12)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "t5"}, "encoder-decoder"),
        ({"model_type": "bart", "architectures": ["BartForCausalLM"]}, "encoder"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "masked"),
        ({"model_type": "bert", "architectures": ["BertLMHeadModel"]}, "masked"),
        ({"model_type": "modernbert"}, "masked"),
        ({"model_type": "vit"}, "generates no text"),
        (
            {"model_type": "qwen3", "architectures": ["Qwen3ForTokenClassification"]},
            "no class that generates text",
        ),
        ({"model_type": "kimi_k2", "auto_map": {"AutoModel": "a.B"}}, "needs code"),
        ({"model_type": "no_such_type"}, "knows no model type 'no_such_type'"),
        ({}, "names no model_type"),
        ({"model_type": 3}, "model_type is 3, not an identifier"),
        ({"model_type": "a\nb"}, "model_type is 'a\\\\nb'"),
    ],
)
def test_a_model_that_cannot_be_trained_is_refused(
    make_model: MakeModel, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        ModelSpec.from_pretrained(make_model(config))

    assert caught.value.remedy


def test_a_decoder_of_a_masked_family_is_accepted(make_model: MakeModel) -> None:
    config = {
        "model_type": "bert",
        "architectures": ["BertLMHeadModel"],
        "is_decoder": True,
    }

    assert ModelSpec.from_pretrained(make_model(config)).layers == 12


def test_remote_code_is_never_run_even_where_it_is_allowed(
    make_model: MakeModel,
) -> None:
    directory = make_model(
        {
            "model_type": "homemade",
            "auto_map": {"AutoConfig": "configuration.C"},
            "vocab_size": 10,
        },
        configuration__py="raise SystemExit('ran')",
    )
    model = ModelSpec.from_pretrained(directory, trust_remote_code=True)

    assert model.vocab_size == 10
    assert isinstance(model.architecture.name, Unknown)
    assert isinstance(model.layers, Unknown)
    assert isinstance(model.attention, Unknown)


def test_a_directory_without_config_is_named(tmp_path) -> None:
    with pytest.raises(UsageError, match=r"holds no config\.json"):
        ModelSpec.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("rope", "length"),
    [
        ({}, 512),
        ({"rope_scaling": {"type": "linear", "factor": 4}}, 2048),
        (
            {
                "rope_parameters": {
                    "factor": 4.0,
                    "original_max_position_embeddings": 128,
                }
            },
            512,
        ),
        ({"rope_parameters": {"rope_type": "default"}}, 512),
    ],
)
def test_rotary_scaling_stretches_the_context(
    make_model: MakeModel, rope: dict[str, Any], length: int
) -> None:
    model = ModelSpec.from_pretrained(make_model({**QWEN3, **rope}))

    assert model.context_length == length


def test_a_model_without_positions_has_no_longest_sequence(
    make_model: MakeModel,
) -> None:
    model = ModelSpec.from_pretrained(make_model({"model_type": "mamba2"}))

    assert isinstance(model.context_length, Unknown)
    assert model.kv_bytes_per_token == 0


@pytest.mark.parametrize(
    ("config", "total", "active"),
    [
        ({"model_type": "qwen3_moe"}, 128, 8),
        ({"model_type": "mixtral", "num_local_experts": 4}, 4, 2),
        ({"model_type": "deepseek_v3", "n_routed_experts": 64}, 64, 8),
    ],
)
def test_experts_are_counted(
    make_model: MakeModel, config: dict[str, Any], total: int, active: int
) -> None:
    experts = ModelSpec.from_pretrained(make_model(config)).experts

    assert experts is not None
    assert (experts.total, experts.active) == (total, active)


@pytest.mark.parametrize(
    ("block", "method", "training"),
    [
        ({"quant_method": "gptq", "bits": 4}, "gptq", "adapters"),
        ({"load_in_4bit": True}, "bitsandbytes", "adapters"),
        ({"quant_method": "mxfp4"}, "mxfp4", "dequantize"),
        ({"quant_method": "higgs"}, "higgs", "no"),
        ({"quant_method": "torchao"}, "torchao", "unknown"),
    ],
)
def test_quantisation_says_how_to_train(
    make_model: MakeModel, block: dict[str, Any], method: str, training: str
) -> None:
    model = ModelSpec.from_pretrained(
        make_model({**QWEN3, "quantization_config": block})
    )

    assert model.quantization is not None
    assert (model.quantization.method, model.quantization.training) == (
        method,
        training,
    )


def test_the_tokenizer_is_counted_where_it_is_at_hand(make_model: MakeModel) -> None:
    tokenizer = {
        "model": {"vocab": {"a": 0, "b": 1}},
        "added_tokens": [{"id": 1}, {"id": 2}],
    }
    directory = make_model(QWEN3, tokenizer__json=json.dumps(tokenizer))

    assert ModelSpec.from_pretrained(directory).tokenizer_length == 3


def test_an_unreadable_tokenizer_is_unknown(make_model: MakeModel) -> None:
    directory = make_model(QWEN3, tokenizer__json='{"model": []}')

    assert isinstance(ModelSpec.from_pretrained(directory).tokenizer_length, Unknown)


def test_reading_a_model_imports_no_torch(make_model: MakeModel) -> None:
    program = (
        "import sys; from carl_bundle.spec.model_spec import ModelSpec;"
        "ModelSpec.from_pretrained(sys.argv[1]);"
        "heavy = {'torch', 'transformers', 'huggingface_hub', 'numpy'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    output = subprocess.run(
        [sys.executable, "-c", program, str(make_model(QWEN3))],
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert output.strip() == "[]"
