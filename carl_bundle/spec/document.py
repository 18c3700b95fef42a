"""A spec before it is validated: nested plain values, addressed by dotted names."""

from __future__ import annotations

from typing import Any

Document = dict[str, Any]

_BARE_IDS = ("model", "data")


def put(document: Document, name: str, value: Any) -> None:
    """Set a dotted name such as `grpo.learning_rate` or `rewards.0.weight`.

    Missing blocks are created; a bare string for a model or for data becomes the
    `id` of its block.

    Raises:
        ValueError: A part of the name leads through something that is no block.
    """
    *parents, last = name.split(".")
    if not all((*parents, last)):
        raise ValueError(f"{name!r} has an empty part")
    block: Any = document
    for part in parents:
        if isinstance(block, list):
            block = block[_index(part, block, name)]
            continue
        child = block.get(part)
        if isinstance(child, str) and part in _BARE_IDS:
            child = {"id": child}
        if child is None:
            child = {}
        if not isinstance(child, dict | list):
            raise ValueError(f"{part!r} in {name!r} is a value, not a block")
        block[part] = child
        block = child
    if isinstance(block, list):
        block[_index(last, block, name)] = value
    else:
        block[last] = value


def get(document: Document, name: str) -> Any:
    """Return the value at a dotted name, or None."""
    value: Any = document
    for part in name.split("."):
        if isinstance(value, str) and part == "id":
            return value
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value


def _index(part: str, block: list[Any], name: str) -> int:
    if not part.isdecimal() or int(part) >= len(block):
        raise ValueError(f"{part!r} in {name!r} is no index into {len(block)} items")
    return int(part)
