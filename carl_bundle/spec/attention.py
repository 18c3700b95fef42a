"""What each layer remembers of a sequence, and how many bytes that takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from carl_bundle.spec.config_reader import MAX_LAYERS, ConfigReader
from carl_bundle.spec.unknown import Unknown

Kind = Literal["full", "sliding", "state", "full+state", "sliding+state", "none"]
ORDER: tuple[Kind, ...] = get_args(Kind)

_KINDS: dict[str, Kind] = {
    "full_attention": "full",
    "attention": "full",
    "sliding_attention": "sliding",
    "chunked_attention": "sliding",
    "linear_attention": "state",
    "mamba": "state",
    "mamba2": "state",
    "conv": "state",
    "recurrent": "state",
    "hybrid": "full+state",
    "hybrid_sliding": "sliding+state",
    "mlp": "none",
    "moe": "none",
}
"""Layer kinds of transformers -> what their cache is. Others are unknown."""

_PATTERNS = (
    "sliding_window_pattern",
    "_sliding_window_pattern",
    "full_attention_interval",
    "attn_layer_period",
    "attn_layer_offset",
    "attn_layer_indices",
    "full_attn_idxs",
    "global_attn_every_n_layers",
    "hybrid_layer_ids",
    "hybrid_override_pattern",
    "local_layer_ids",
)
"""Older fields that a configuration class turns into layer kinds."""

_LIST_NAMES = ("layer_types", "layers_block_type", "block_types")


@dataclass(frozen=True)
class Attention:
    """The layers of a model by what they cache.

    Attributes:
        kinds: One for each layer.
        window: How many tokens a sliding layer keeps; None without such layers.
        latent: Whether keys and values are cached as one compressed vector.
        floats_per_layer: Cached numbers per token and layer.
    """

    kinds: tuple[Kind, ...]
    window: int | None
    latent: bool
    floats_per_layer: int

    @property
    def hybrid(self) -> bool:
        """Whether some layers keep a state of constant size."""
        return any("state" in kind for kind in self.kinds)

    @property
    def sliding(self) -> bool:
        return any("sliding" in kind for kind in self.kinds)

    def kv_bytes_per_token(self, width: int = 2) -> int:
        """Bytes that each further token of a long sequence adds to the cache.

        Formula: full layers x numbers per layer x width, where the numbers are
        2 x key-value heads x head width, or latent rank + rotary width where keys
        and values are compressed. Sliding layers are full by then, and layers with
        a state do not grow.

        Args:
            width: Bytes of one cached number (2 for bfloat16).
        """
        full = sum("full" in kind for kind in self.kinds)
        return full * self.floats_per_layer * width

    def kv_bytes(self, tokens: int, width: int = 2) -> int:
        """Bytes of the cache of one sequence, sliding layers capped at the window.

        States of constant size are not counted.
        """
        sliding = sum("sliding" in kind for kind in self.kinds)
        kept = min(tokens, self.window) if self.window else tokens
        per_layer = self.floats_per_layer * width
        return self.kv_bytes_per_token(width) * tokens + sliding * kept * per_layer


def read_attention(text: ConfigReader) -> Attention | Unknown:
    """Return what the layers of a text configuration cache.

    Raises:
        UsageError: A field holds what it cannot hold.
    """
    names = _layer_names(text)
    if isinstance(names, Unknown):
        return names
    strange = sorted({name for name in names if name not in _KINDS})
    if strange:
        return Unknown(f"layers of kind {', '.join(strange)} have a cache of their own")
    kinds = [_KINDS[name] for name in names]
    shared = text.integer("num_kv_shared_layers") or 0
    if shared:
        # The last layers read the cache of earlier ones.
        kinds[len(kinds) - min(shared, len(kinds)) :] = ["none"] * min(
            shared, len(kinds)
        )
    window = _window(text) if any("sliding" in kind for kind in kinds) else None
    if isinstance(window, Unknown):
        return window
    latent = text.integer("kv_lora_rank")
    if not any("full" in kind or "sliding" in kind for kind in kinds):
        return Attention(tuple(kinds), None, False, 0)
    floats = _floats_per_layer(text)
    if isinstance(floats, Unknown):
        return floats
    return Attention(tuple(kinds), window, bool(latent), floats)


def _layer_names(text: ConfigReader) -> list[str] | Unknown:
    """Return the kind of each layer as transformers calls it."""
    for key in _LIST_NAMES:
        listed = text.strings(key)
        if listed is not None and key != "block_types":
            return listed
    layers = text.integer("num_hidden_layers", 1)
    if layers is None:
        return Unknown("neither config.json nor its class tells the number of layers")
    if layers > MAX_LAYERS:
        text.refuse("num_hidden_layers", layers, f"at most {MAX_LAYERS}")
    pattern = text.entry.get("layers")
    for key in _PATTERNS:
        value = text.values.get(key)
        if value is None:
            continue
        usual = text.entry.get("patterns", {}).get(key)
        if value != usual and not (pattern and value == len(pattern)):
            return Unknown(f"{key} decides the kind of each layer in its own way")
    if text.boolean("use_sliding_window"):
        return Unknown("use_sliding_window decides the kind of each layer")
    if pattern:
        return [pattern[i % len(pattern)] for i in range(layers)]
    if not text.entry:
        return Unknown("this model type is not in the table")
    if text.strings("block_types") or text.entry.get("patterns"):
        return Unknown("the class derives the kind of each layer in its own way")
    everywhere = text.integer("sliding_window")
    uses = text.raw("use_sliding_window")
    kind = "sliding_attention" if everywhere and uses is not False else "full_attention"
    return [kind] * layers


def _window(text: ConfigReader) -> int | Unknown:
    for name in ("sliding_window", "attention_chunk_size"):
        window = text.integer(name, 1)
        if window is not None:
            return window
    return Unknown("the layers slide, but no field tells how wide the window is")


def _floats_per_layer(text: ConfigReader) -> int | Unknown:
    """Return how many numbers one layer caches for one token."""
    rank = text.integer("kv_lora_rank", 1)
    if rank is not None:
        rotary = text.integer("qk_rope_head_dim")
        if rotary is None:
            return Unknown("qk_rope_head_dim is missing beside kv_lora_rank")
        return rank + rotary
    own = set(text.entry.get("per_layer", [])) & {"head_dim", "num_key_value_heads"}
    if own:
        return Unknown(f"{' and '.join(sorted(own))} differ between layers")
    if text.raw("multi_query") is not None or text.has("num_kv_heads"):
        return Unknown("the class shares keys and values between heads in its own way")
    heads = text.integer("num_attention_heads", 1)
    hidden = text.integer("hidden_size", 1)
    if heads is None or hidden is None:
        return Unknown("the number or the width of the attention heads is missing")
    width = text.integer("head_dim", 1) or hidden // heads
    shared = text.integer("num_key_value_heads", 1) or heads
    return 2 * shared * width
