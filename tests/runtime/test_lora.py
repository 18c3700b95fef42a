"""Which layers get an adapter, over families that differ in structure.

The models are built on the meta device from shrunken configurations.
"""

from __future__ import annotations

import re

import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

from carl_runtime_min.errors import UsageError  # noqa: E402
from carl_runtime_min.lora import lora_targets  # noqa: E402

SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "vocab_size": 320,
    "pad_token_id": 0,
}
VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
QWEN_VISION = {"depth": 2, "hidden_size": 32, "num_heads": 2, "out_hidden_size": 64}
EXPERTS = {"num_experts": 5, "num_local_experts": 5, "num_experts_per_tok": 2}

# model type -> (configuration, the layers expected to be adapted in one depth)
FAMILIES = {
    "llama": (SMALL, "q k v o gate up down"),
    "qwen3": (SMALL, "q k v o gate up down"),
    "gemma3_text": (SMALL, "q k v o gate up down"),
    "phi3": (SMALL, "qkv o gate_up down"),
    "qwen3_moe": ({**SMALL, **EXPERTS}, "q k v o"),
    "mixtral": ({**SMALL, **EXPERTS}, "q k v o"),
    "gpt_oss": ({**SMALL, **EXPERTS}, "q k v o"),
    "llama4_text": ({**SMALL, **EXPERTS}, "q k v o"),
    "deepseek_v3": (
        {
            **SMALL,
            "num_key_value_heads": 4,
            "n_routed_experts": 8,
            "n_group": 2,
            "topk_group": 1,
            "num_experts_per_tok": 2,
            "first_k_dense_replace": 1,
        },
        "q_a q_b kv_a_proj_with_mqa kv_b o",
    ),
    "qwen3_next": (
        {**SMALL, **EXPERTS},
        "q k v o in_proj_qkvz in_proj_ba out",
    ),
    "mamba2": (
        {
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_heads": 8,
            "head_dim": 16,
            "vocab_size": 320,
        },
        "in",
    ),
    "falcon_h1": ({**SMALL, "mamba_d_ssm": 128}, "q k v o gate up down in"),
    "jamba": ({**SMALL, **EXPERTS, "num_hidden_layers": 8}, "q k v o in"),
    "gpt2": (
        {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 320},
        "c_attn c c_fc",
    ),
    "modernbert-decoder": (SMALL, "Wi Wo q k v"),
    "qwen3_vl": (
        {"text_config": SMALL, "vision_config": QWEN_VISION},
        "q k v o gate up down",
    ),
    "qwen3_5": (
        {"text_config": SMALL, "vision_config": QWEN_VISION},
        "q k v o gate up down in_proj_qkv in_proj_z in_proj_a in_proj_b out",
    ),
    "gemma3": ({"text_config": SMALL, "vision_config": VISION}, "q k v o gate up down"),
}


def meta_model(model_type: str):
    """Build a model of a type without memory for its weights."""
    settings, _ = FAMILIES[model_type]
    config = transformers.AutoConfig.for_model(model_type, **settings)
    auto = (
        transformers.AutoModelForImageTextToText
        if "vision_config" in settings
        else transformers.AutoModelForCausalLM
    )
    with torch.device("meta"):
        return auto.from_config(config)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_adapts_the_linear_layers_of_the_text_decoder_only(model_type: str) -> None:
    names = lora_targets(meta_model(model_type))

    own = {re.sub(r"_proj$", "", name.rpartition(".")[2]) for name in names}
    assert own == set(FAMILIES[model_type][1].split())
    assert names == sorted(names)
    assert not [n for n in names if re.search(r"visual|vision|lm_head|router", n)]
    assert not [n for n in names if n.endswith((".mlp.gate", "shared_expert_gate"))]


@pytest.mark.parametrize("model_type", FAMILIES)
def test_peft_accepts_exactly_these_layers(model_type: str) -> None:
    model = meta_model(model_type)
    names = lora_targets(model)

    adapted = peft.get_peft_model(
        model,
        peft.LoraConfig(r=2, target_modules=names),
        low_cpu_mem_usage=True,
    )

    prefix = "base_model.model."
    layers = {
        name.removeprefix(prefix)
        for name, module in adapted.named_modules()
        if isinstance(module, peft.tuners.lora.LoraLayer)
    }
    assert layers == set(names)


def test_a_model_without_linear_layers_is_refused_with_a_way_out() -> None:
    class Bare(torch.nn.Module):
        def get_decoder(self):
            return self

        def get_output_embeddings(self):
            return None

    with pytest.raises(UsageError, match="no linear layer") as caught:
        lora_targets(Bare())

    assert "lora.targets" in caught.value.remedy
