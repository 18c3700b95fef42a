"""What layers cache, by formula and by the caches of transformers."""

from __future__ import annotations

import re
from typing import Any

import pytest

from carl_bundle.spec.attention import Attention
from carl_bundle.spec.model_spec import ModelSpec
from carl_bundle.spec.unknown import Unknown
from tests.spec.conftest import MakeModel

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "pad_token_id": 0,
}
LATENT = {
    **SMALL,
    "num_key_value_heads": 4,
    "num_hidden_layers": 2,
    "kv_lora_rank": 24,
    "q_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 32,
}


def attention_of(make_model: MakeModel, config: dict[str, Any]) -> Attention:
    attention = ModelSpec.from_pretrained(make_model(config)).attention
    assert isinstance(attention, Attention)
    return attention


@pytest.mark.parametrize(
    ("config", "kinds"),
    [
        ({"model_type": "llama", "num_hidden_layers": 3}, {"full": 3}),
        (
            {"model_type": "gemma3_text", "num_hidden_layers": 14},
            {"sliding": 12, "full": 2},
        ),
        (
            {
                "model_type": "qwen3_next",
                "num_hidden_layers": 8,
                "full_attention_interval": 4,
            },
            {"state": 6, "full": 2},
        ),
        ({"model_type": "jamba", "num_hidden_layers": 16}, {"state": 14, "full": 2}),
        ({"model_type": "falcon_h1", "num_hidden_layers": 2}, {"full+state": 2}),
        ({"model_type": "mamba2", "num_hidden_layers": 5}, {"state": 5}),
        (
            {
                "model_type": "qwen3",
                "layer_types": ["full_attention", "sliding_attention"],
                "sliding_window": 8,
            },
            {"full": 1, "sliding": 1},
        ),
        ({"model_type": "mistral", "sliding_window": 4096}, {"sliding": 32}),
        ({"model_type": "mistral", "sliding_window": None}, {"full": 32}),
    ],
)
def test_layers_are_told_apart(
    make_model: MakeModel, config: dict[str, Any], kinds: dict[str, int]
) -> None:
    found = attention_of(make_model, config).kinds

    assert {kind: found.count(kind) for kind in set(found)} == kinds


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "jamba", "attn_layer_period": 6}, "attn_layer_period"),
        ({"model_type": "qwen2", "use_sliding_window": True}, "use_sliding_window"),
        ({"model_type": "falcon"}, "shares keys and values"),
        ({"model_type": "gemma4_text"}, "differ between layers|head_dim"),
        ({"model_type": "nemotron_h"}, "number of layers"),
        ({"model_type": "llama", "layer_types": ["odd"]}, "layers of kind odd"),
    ],
)
def test_what_the_files_do_not_tell_is_unknown(
    make_model: MakeModel, config: dict[str, Any], reason: str
) -> None:
    attention = ModelSpec.from_pretrained(make_model(config)).attention

    assert isinstance(attention, Unknown)
    assert re.search(reason, attention.reason)


def test_a_sliding_layer_keeps_a_window(make_model: MakeModel) -> None:
    attention = attention_of(
        make_model,
        {
            **SMALL,
            "model_type": "gemma3_text",
            "head_dim": 16,
            "num_hidden_layers": 6,
            "sliding_window": 10,
        },
    )
    layer = 2 * 2 * 16 * 2

    assert attention.sliding
    assert not attention.hybrid
    assert attention.kv_bytes_per_token() == layer
    assert attention.kv_bytes(4) == 6 * 4 * layer
    assert attention.kv_bytes(100) == (100 + 5 * 10) * layer


REAL = {
    "llama": {**SMALL, "num_hidden_layers": 3},
    "qwen3": {**SMALL, "num_hidden_layers": 3, "head_dim": 16},
    "gpt2": {"n_embd": 64, "n_layer": 3, "n_head": 4, "vocab_size": 320},
    "gemma3_text": {**SMALL, "num_hidden_layers": 7, "head_dim": 16},
    "mixtral": {**SMALL, "num_hidden_layers": 2, "num_local_experts": 4},
    "bloom": {"hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": 320},
    "deepseek_v3": LATENT,
    "qwen3_next": {
        **SMALL,
        "num_hidden_layers": 4,
        "head_dim": 16,
        "num_experts": 4,
        "num_experts_per_tok": 2,
    },
}


@pytest.mark.parametrize("model_type", REAL)
def test_the_formula_is_what_transformers_caches(
    make_model: MakeModel, model_type: str
) -> None:
    """Bytes of the real cache after a prompt, against the formula in float32."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    settings = REAL[model_type]
    attention = attention_of(make_model, {"model_type": model_type, **settings})
    config = transformers.AutoConfig.for_model(model_type, **settings)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    ids = torch.arange(9)[None]
    with torch.no_grad():
        cache = model(ids, use_cache=True).past_key_values

    cached = sum(
        tensor.numel()
        for layer in cache.layers
        for tensor in (getattr(layer, "keys", None), getattr(layer, "values", None))
        if tensor is not None
    )
    assert attention.kv_bytes(9, width=1) == cached
