"""What transformers knows of each model type that writes text.

Only what a `config.json` may leave out is kept: which auto class loads the type,
and the defaults of its configuration class. A default that the class derives from
other fields is kept as null, after a trial has shown that it is derived in the
usual way; if it is not, it is left out, and counts as unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

AUTO_CLASSES = {
    "causal-lm": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "image-text-to-text": "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
    "multimodal-lm": "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES",
    "seq2seq-lm": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "masked-lm": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
}

DEFAULTS = (
    "attention_chunk_size",
    "head_dim",
    "hidden_size",
    "intermediate_size",
    "is_decoder",
    "is_encoder_decoder",
    "kv_lora_rank",
    "max_position_embeddings",
    "moe_k",
    "moe_num_experts",
    "moe_topk",
    "multi_query",
    "n_routed_experts",
    "num_attention_heads",
    "num_experts",
    "num_experts_per_tok",
    "num_experts_per_token",
    "num_hidden_layers",
    "num_key_value_heads",
    "num_kv_heads",
    "num_kv_shared_layers",
    "num_local_experts",
    "qk_rope_head_dim",
    "sliding_window",
    "tie_word_embeddings",
    "top_k_experts",
    "use_sliding_window",
    "vocab_size",
)

PATTERN_KEY = re.compile(
    r"(sliding_window|hybrid_override)_pattern|layer_(period|offset|indices)"
    r"|every_n_layers|full_attn_idxs|full_attention_interval|layer_ids"
)
"""Older fields from which a class derives the kind of each layer."""

LONGEST_PERIOD = 16


def model_types() -> dict[str, Any]:
    """Return `{"types": {model_type: entry}, "others": [...], "versions": ...}`.

    An entry has `auto` (auto class -> architecture), `defaults`, and where they
    differ from the usual `alias` (field -> name in config.json), `text` (key and
    type of the text configuration), `layers` (repeating kinds), `per_layer` (fields
    that differ between layers) and `patterns` (defaults of pattern fields).
    """
    import transformers
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    mappings = {
        name: dict(getattr(modeling_auto, variable))
        for name, variable in AUTO_CLASSES.items()
    }
    auto: dict[str, dict[str, str]] = {}
    for name, mapping in mappings.items():
        for model_type, architecture in mapping.items():
            first = architecture if isinstance(architecture, str) else architecture[0]
            auto.setdefault(model_type, {})[name] = first
    types: dict[str, Any] = {}
    pending = [name for name in sorted(auto) if name in CONFIG_MAPPING]
    while pending:
        name = pending.pop()
        if name in types:
            continue
        types[name] = _entry(CONFIG_MAPPING[name])
        types[name]["auto"] = auto.get(name, {})
        text = types[name].get("text")
        if text and text[1] in CONFIG_MAPPING:
            pending.append(text[1])
    others = sorted(name for name in CONFIG_MAPPING if name not in types)
    return {
        "versions": {"transformers": transformers.__version__},
        "types": types,
        "others": others,
    }


def _entry(config_class: Any) -> dict[str, Any]:
    """Return what a configuration class says when it is given nothing."""
    try:
        config = config_class()
    except Exception as error:  # the class itself cannot be made without arguments
        return {"defaults": {}, "broken": type(error).__name__}
    text_key = _text_key(config)
    if text_key is not None:
        text = getattr(config, text_key)
        entry: dict[str, Any] = {"text": [text_key, text.model_type], "defaults": {}}
        for name in ("is_encoder_decoder", "tie_word_embeddings"):
            entry["defaults"][name] = _plain(getattr(config, name, None))
        return entry
    values = config.to_dict()
    alias = {
        name: actual
        for name, actual in type(config).attribute_map.items()
        if name in DEFAULTS
    }
    defaults = {
        name: _plain(values[alias.get(name, name)])
        for name in DEFAULTS
        if alias.get(name, name) in values
    }
    per_layer = values.get("per_layer_config")
    entry = {"defaults": defaults}
    if per_layer:
        each = per_layer.values() if isinstance(per_layer, dict) else per_layer
        entry["per_layer"] = sorted({key for layer in each for key in layer})
    else:
        _derive(config_class, defaults)
    if alias:
        entry["alias"] = alias
    patterns = {
        name: _plain(value)
        for name, value in values.items()
        if PATTERN_KEY.search(name) and isinstance(value, int | str | list | None)
    }
    if patterns:
        entry["patterns"] = patterns
    layers = _layers(config_class, config)
    if layers is not None:
        entry["layers"] = layers
    return entry


def _text_key(config: Any) -> str | None:
    try:
        text = config.get_text_config()
    except ValueError:
        return None
    if text is config:
        return None
    keys = ("text_config", "decoder", "generator", "text_encoder")
    return next((key for key in keys if getattr(config, key, None) is text), None)


def _derive(config_class: Any, defaults: dict[str, Any]) -> None:
    """Replace derived defaults by null; drop those derived in an unusual way."""
    trial = _try(config_class, num_attention_heads=6, hidden_size=6 * 32)
    usual = {"num_key_value_heads": 6, "head_dim": 32}
    for name, expected in usual.items():
        if name not in defaults or defaults[name] is None:
            continue
        value = getattr(trial, name, None) if trial is not None else None
        if value == expected != defaults[name]:
            defaults[name] = None
        elif value != defaults[name]:
            del defaults[name]


def _layers(config_class: Any, config: Any) -> list[str] | None:
    """Return the shortest list of layer kinds that repeats at every depth."""
    default = _kinds(config)
    if default is None:
        return None
    observed = [default]
    for depth in (1, 2, 3, 5, 7, 8, 12, 13, 24, 30, 41, 48):
        trial = _try(config_class, num_hidden_layers=depth)
        kinds = _kinds(trial) if trial is not None else None
        if kinds is not None and len(kinds) == depth:
            observed.append(kinds)
    if len(observed) < 6:
        return None
    longest = max(observed, key=len)
    for period in range(1, LONGEST_PERIOD + 1):
        pattern = longest[:period]
        if all(list(_repeat(pattern, len(kinds))) == kinds for kinds in observed):
            return pattern
    return None


def _repeat(pattern: Sequence[str], length: int) -> Iterator[str]:
    return (pattern[i % len(pattern)] for i in range(length))


def _kinds(config: Any) -> list[str] | None:
    kinds = getattr(config, "layer_types", None)
    return [str(kind) for kind in kinds] if kinds else None


def _try(config_class: Any, **arguments: Any) -> Any:
    """Return a configuration, or None where the class refuses the arguments."""
    try:
        return config_class(**arguments)
    except Exception:  # any class may validate in any way
        return None


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None
