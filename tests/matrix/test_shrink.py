"""Small configurations, by the names of their fields."""

from __future__ import annotations

from typing import Any

from tools.matrix.shrink import ABSENT, VOCABULARY, small

LLAMA = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "id2label": {0: "a", 1: "b"},
}


def shrunken(**more: Any) -> dict[str, Any]:
    return small({**LLAMA, **more}, {})


def test_heads_divide_the_width_and_what_is_no_size_stays() -> None:
    made = shrunken()
    assert made["hidden_size"] == made["num_attention_heads"] * made["head_dim"] <= 64
    assert made["num_attention_heads"] % made["num_key_value_heads"] == 0
    assert made["num_key_value_heads"] < made["num_attention_heads"]
    assert (made["vocab_size"], made["num_hidden_layers"]) == (VOCABULARY, 2)
    for name in ("rms_norm_eps", "tie_word_embeddings", "id2label"):
        assert made[name] == LLAMA[name]
    assert shrunken(num_key_value_heads=32)["num_key_value_heads"] == 4
    assert shrunken(num_key_value_heads=1)["num_key_value_heads"] == 1


def test_heads_of_a_state_space_fill_the_same_multiple_of_the_width() -> None:
    made = shrunken(num_attention_heads=128, head_dim=64)
    assert made["num_attention_heads"] * made["head_dim"] == 2 * made["hidden_size"]


def test_a_layer_of_every_kind_is_kept() -> None:
    kinds = ["sliding"] * 3 + ["full"] + ["sliding"] * 28
    thetas = [1.0] * 31 + [2.0]
    made = shrunken(layer_types=kinds, thetas=thetas, full_attention_layers=[3])
    depth = made["num_hidden_layers"]
    assert set(made["layer_types"]) == {"sliding", "full"}
    assert set(made["thetas"]) == {1.0, 2.0}
    assert len(made["layer_types"]) == len(made["thetas"]) == depth <= 5
    (place,) = made["full_attention_layers"]
    assert made["layer_types"][place] == "full"


def test_settings_of_single_layers_follow_their_layers() -> None:
    own = {i: {"head_dim": 512} for i in (5, 11)}
    made = shrunken(per_layer_config=own)
    assert list(made["per_layer_config"].values()) == [{"head_dim": 16}] * 2
    assert set(made["per_layer_config"]) < set(range(made["num_hidden_layers"]))


def test_token_ids_exist_and_differ_from_those_of_text() -> None:
    ids = {"image_token_id": 151655, "video_token_id": 151656}
    made = shrunken(**ids, eos_token_id=[2, 128001], text_config={"pad_token_id": 9999})
    found = [made[name] for name in ids]
    assert len(set(found)) == 2
    assert all(259 <= one < VOCABULARY for one in found)  # a text has bytes only
    assert made["eos_token_id"] == 2
    assert made["text_config"]["pad_token_id"] == 0


def test_what_is_none_is_filled_only_when_asked() -> None:
    assert shrunken(head_dim=None)["head_dim"] is None
    assert small({**LLAMA, "head_dim": None}, ABSENT)["head_dim"] == 16


def test_multi_axis_sections_fill_half_of_a_head() -> None:
    rope = {"rope_theta": 1e6, "mrope_section": [24, 20, 20]}
    made = shrunken(rope_parameters=rope)
    assert sum(made["rope_parameters"]["mrope_section"]) == made["head_dim"] // 2
