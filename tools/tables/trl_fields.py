"""The fields of TRL's configs, inherited ones included."""

from __future__ import annotations

import dataclasses
import enum
import os
import types
import typing
from typing import Any

_NAMES = {
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
    type(None): "null",
    list: "list",
    dict: "dict",
}


def trl_fields() -> dict[str, Any]:
    """Return `{"sft": {field: {types, choices?, default?}}, "grpo": ...}`."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    import transformers
    import trl
    from trl.experimental.orpo import ORPOConfig

    return {
        "versions": {"transformers": transformers.__version__, "trl": trl.__version__},
        "sft": _fields(trl.SFTConfig),
        "grpo": _fields(trl.GRPOConfig),
        "rloo": _fields(trl.RLOOConfig),
        "dpo": _fields(trl.DPOConfig),
        "kto": _fields(trl.KTOConfig),
        "orpo": _fields(ORPOConfig),
    }


def _fields(config: Any) -> dict[str, dict[str, Any]]:
    hints = typing.get_type_hints(config)
    table: dict[str, dict[str, Any]] = {}
    for field in dataclasses.fields(config):
        names: list[str] = []
        choices: list[str] = []
        _flatten(hints[field.name], names, choices)
        entry: dict[str, Any] = {"types": sorted(set(names))}
        choices = list(field.metadata.get("choices") or choices)
        if choices:
            entry["choices"] = sorted(choices)
        if field.default is not dataclasses.MISSING:
            entry["default"] = _plain(field.default)
        table[field.name] = entry
    return table


def _flatten(hint: Any, names: list[str], choices: list[str]) -> None:
    """Add the YAML types that a type hint allows, and the values of its enums."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        for part in typing.get_args(hint):
            _flatten(part, names, choices)
    elif origin is typing.Literal:
        names.extend(_NAMES[type(value)] for value in typing.get_args(hint))
    elif isinstance(hint, type) and issubclass(hint, enum.Enum):
        names.append("str")
        choices.extend(str(member.value) for member in hint)
    elif (origin or hint) in _NAMES:
        names.append(_NAMES[origin or hint])
    # Any other class has no YAML form and adds no type.


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, enum.Enum) else value
