"""A small configuration of any model type, by rules on the names of fields.

A rule sees a field's name, its default and the block it stands in, never a model type.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

VOCABULARY = 320  # rows of every embedding; more than the tokenizer has tokens
WIDTH, HEADS, HEAD_WIDTH, EXPERTS = 64, 4, 16, 4
MOST_KINDS = 4  # a list with more is no list of kinds
TOKENS = {"pad": 0, "bos": 1, "eos": 2}  # as in tools.matrix.instance

Block = dict[str, Any]
Rule = Callable[[int, Block], int]


def to(target: int) -> Rule:
    """At most `target`: what is smaller already stays."""
    return lambda value, block: min(value, target)


def heads(value: int, block: Block) -> int:
    """Heads that fill the width; where they fill a multiple of it, they still do."""
    width, each = find(block, WIDTH_NAMES), find(block, HEAD_WIDTH_NAMES)
    times, rest = divmod(value * (each or 0), width or 1)
    fitting = WIDTH // HEAD_WIDTH
    return min(value, fitting * times if times and not rest else HEADS)


def multiple(value: int, block: Block) -> int:
    """As many times the width as before."""
    return min(value, WIDTH * max(1, value // (find(block, WIDTH_NAMES) or value)))


def kv_heads(value: int, block: Block) -> int:
    """As many as there are heads, if it was so; else half, or one."""
    full = find(block, HEAD_NAMES)
    return min(value, HEADS if value == full else HEADS // 2)


def head_width(value: int, block: Block) -> int:
    """Half as wide where only the rotary part of a head is meant."""
    rotary = value == block.get("qk_rope_head_dim")
    return min(value, HEAD_WIDTH // 2 if rotary else HEAD_WIDTH)


WIDTH_NAMES = re.compile(r"^(hidden_size|d_model|n_embd|embed_dim|dim)$")
HEAD_WIDTH_NAMES = re.compile(r"^(head_dim|mamba_d_head|mamba_head_dim|mamba_headdim)$")
HEAD_NAMES = re.compile(r"^(num_attention_heads|n_heads?|num_heads)$")
DEPTH_NAMES = re.compile(
    r"^((num|n)_)?(hidden_|encoder_|decoder_|global_)?layers?$|^depth$|_depth$|"
    r"^num_blocks$|^conf_num_hidden_layers$|add_layers$"
)

LINEAR = {"linear_attention"}
"""Layers of a hybrid by its default; what is published has attention among them."""

ALWAYS: dict[str, Any] = {
    "attn_layer_indices": [1],
    "num_experts_per_tok": 2,
    "clip_qkv": 8.0,
}
"""Fields that no published model leaves None, and whose lack shows in training only."""

FITTING: dict[str, Any] = {"qk_dim_factor": 1.0}
"""Fields whose default does not go with widths as small as these."""

ABSENT: dict[str, Any] = {
    "head_dim": HEAD_WIDTH,
    "num_key_value_heads": HEADS,
    "n_routed_experts": EXPERTS,
    "num_experts": EXPERTS,
    "top_k_experts": 2,
    "moe_intermediate_size": WIDTH // 2,
    "n_shared_experts": 1,
    "mlp_layer_types": ["dense", "sparse"],
    "layer_types": ["full_attention"] * 2,
    "indexer_n_heads": HEADS,
    "indexer_kv_heads": 1,
    "indexer_head_dim": HEAD_WIDTH,
    "indexer_budget": 16,
    "indexer_compress_ratio": 4,
    "deepstack_layer_map": [[-1, 0]],
    "downsample_rate": "1/2",
    "attn_config": {"rope_theta": 1e4},
    "vocabulary_map": {"<image>": 319, "<|extra_200|>": 318, "IMGIMGA": 317},
}
"""Fields that a class leaves None although its model may need them."""

RULES: list[tuple[re.Pattern[str], Rule]] = [
    (re.compile(pattern), rule)
    for pattern, rule in (
        (r"type_vocab_size|vocab_offset", lambda value, block: value),
        (r"vocab", to(VOCABULARY)),
        # attention
        (r"(key_value|kv)_heads$|query_groups", kv_heads),
        (r"linear_num_key_heads", to(HEADS // 2)),
        (r"heads$|n_head$", heads),
        (r"^head_dim$", head_width),
        (r"qk_(nope|rope)_head_dim", to(HEAD_WIDTH // 2)),
        (r"head_(dim|size)$|headdim|^d_kv$|^d_head$|kv_channels", to(HEAD_WIDTH)),
        (r"dim_head$|mamba_d_head", to(HEAD_WIDTH)),
        (r"rotary_dim|lora_rank|laurel_rank|lowrank", to(HEAD_WIDTH // 2)),
        (r"d_rel", to(HEAD_WIDTH // 2)),
        # mixtures of experts
        (r"experts_per_tok|moe_topk|moe_k$|top_k_experts", to(2)),
        (r"n_group$|expert_group$|topk_group", to(1)),
        (r"shared_experts$", to(1)),
        (r"experts$|experts_num$|expert_num$", to(EXPERTS)),
        # state-space models
        (r"dt_rank|time_step_rank", to(4)),
        (r"d_state|state_size", to(16)),
        (r"groups$", to(1)),
        (r"chunk_?size$", to(16)),
        (r"d_ssm", to(WIDTH // 2)),
        (r"axial_pos_embds_dim", lambda value, block: value // 4),
        (r"vision_feature_layer", to(1)),
        # widths
        (r"moe.*intermediate|expert.*(intermediate|ffn|dim)", to(WIDTH // 2)),
        (r"intermediate_size|ffn|d_ff|d_inner|mlp_dim|feed_forward", to(2 * WIDTH)),
        (r"attention_hidden_size", multiple),
        (r"(hidden|embedding|output|embd|lru)_(size|dim|width)$", to(WIDTH)),
        (r"adapter_input_size|base_channels", to(WIDTH)),
        (r"hidden_size|d_model|n_embd|embed_dim|embedding_size", to(WIDTH)),
        (r"^dim$|emb_dim|_dim$|embed_proj|out_dim|lru_width", to(WIDTH)),
        # depth that other fields count
        (r"_cycles$|layers_per_stack", to(1)),
        (r"(period|interval|window_pattern)$", to(2)),
        (r"offset$|first_k_dense|dense_layers|_layer_id$|layer_end_index", to(1)),
        (r"kv_shared_layers", to(0)),
    )
]


def small(config: Block, absent: Block) -> Block:
    """The values of a configuration, shrunken; nested blocks too.

    A field that is None takes its value from `absent`.
    """
    spare = iter(range(VOCABULARY - 4, TOKENS["eos"], -1))
    return shrink(config, spare, absent)


def shrink(block: Block, spare: Iterator[int], absent: Block) -> Block:
    if not all(isinstance(name, str) for name in block):  # a map such as id2label
        return block
    depth_name = next((n for n in block if DEPTH_NAMES.search(n) and block[n]), "")
    depth = block.get(depth_name) or 0
    kept = layers_kept(block, depth) if type(depth) is int else []
    made: Block = {}
    for name, value in block.items():
        if value is None:
            made[name] = absent.get(name, ALWAYS.get(name))
        elif name in FITTING:
            made[name] = FITTING[name]
        elif name == "per_layer_config" and isinstance(value, dict):
            chosen = [(kept.index(i), value[i]) for i in value if i in kept]
            made[name] = {i: shrink(each, spare, absent) for i, each in chosen}
        elif isinstance(value, dict):
            made[name] = shrink({**absent.get(name, {}), **value}, spare, absent)
        elif re.search(r"token_id$|token_index$|token_ids$", name):
            made[name] = token(name, value, spare)
        elif isinstance(value, list | tuple) and kept:
            made[name] = per_layer(name, list(value), depth, kept, block)
        elif DEPTH_NAMES.search(name) and type(value) is int:
            made[name] = len(kept) if value == depth else min(value, 2)
        else:
            made[name] = number(name, value, block)
    if "num_attention_heads" in made and set(made.get("layer_types") or ()) == LINEAR:
        made["layer_types"][-1] = "full_attention"
    section(made)
    return made


def layers_kept(block: Block, depth: int) -> list[int]:
    """Indices of layers: the first two, and two of every kind that the block tells."""
    kept = set(range(min(2, depth)))
    for name, value in block.items():
        kinds = list(map(str, value)) if isinstance(value, list | tuple) else []
        if name == "block_types":  # they repeat
            kept |= set(range(min(depth, len(kinds))))
        if name == "per_layer_config" and isinstance(value, dict):
            kinds = [str(value.get(i)) for i in range(depth)]
        if len(kinds) == depth and len(set(kinds)) <= MOST_KINDS:
            for kind in set(kinds):
                kept |= set([i for i in range(depth) if kinds[i] == kind][:2])
    return sorted(kept)


def number(name: str, value: Any, block: Block) -> Any:
    """`value` by the first rule for `name`; lists item by item."""
    if isinstance(value, list | tuple):
        return [number(name, item, block) for item in value]
    if type(value) is not int:
        return value
    for pattern, rule in RULES:
        if pattern.search(name):
            return rule(value, block)
    return value


def per_layer(
    name: str, value: list[Any], depth: int, kept: list[int], block: Block
) -> list[Any]:
    """A list with an item for each layer, or one of layers' indices; or as it is."""
    indices = re.search(r"(idxs|indices|indexes|layer_ids|_layers)$", name)
    if indices and value and all(type(i) is int for i in value) and len(value) < depth:
        return [new for new, old in enumerate(kept) if old in value] or [len(kept) - 1]
    if len(value) == depth and indices and value == list(range(depth)):
        return list(range(len(kept)))
    if len(value) == depth:
        value = [value[i] for i in kept]
    return list(number(name, value, block))


def token(name: str, value: Any, spare: Iterator[int]) -> Any:
    """An id that exists: the tokenizer's own, else one that no text has."""
    own = TOKENS.get(name.removesuffix("_token_id"))
    if isinstance(value, list):
        return own if own is not None else [token(name, item, spare) for item in value]
    if own is not None:
        return own
    return next(spare) if isinstance(value, int) and value >= 32 else value


def section(block: Block) -> None:
    """Sections of a multi-axis rotary embedding fill half a head."""
    for value in block.values():
        sections = value.get("mrope_section") if isinstance(value, dict) else None
        if sections:
            share = value.get("partial_rotary_factor", 1.0)
            half = int((block.get("head_dim") or HEAD_WIDTH) * share) // 2
            made = [half * one // sum(sections) for one in sections]
            made[-1 if sections[0] == sections[1] else 0] += half - sum(made)
            value["mrope_section"] = made


def find(block: Block, names: re.Pattern[str]) -> int | None:
    """The number in `block` whose name matches."""
    found = (block[name] for name in block if names.search(name))
    return next((value for value in found if type(value) is int), None)
