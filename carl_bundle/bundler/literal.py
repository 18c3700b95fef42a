"""The one gate through which data enters a script: `py_literal`.

A literal is JSON-shaped (None, bool, int, float, str, list, dict with str keys). Its
text is what black would make of it, every string stays on one line, and
`ast.literal_eval` of it gives the value back, types included.
"""

from __future__ import annotations

import math
from typing import Any

from carl_bundle.errors import BundleError

MAX_DEPTH = 40
INDENT = "    "

_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def py_literal(value: Any, where: str = "CONFIG") -> str:
    """Return the Python literal of a value.

    Args:
        value: The value; subclasses of the allowed types are refused.
        where: How messages name the value.

    Raises:
        BundleError: A type, a float or a depth that a literal cannot carry.
    """
    return _literal(value, where, 0)


def _literal(value: Any, where: str, depth: int) -> str:
    kind = type(value)
    if value is None or kind is bool:
        return repr(value)
    if kind is int:
        return _integer(value, where)
    if kind is float:
        return _float(value, where)
    if kind is str:
        return _string(value)
    if kind not in (list, dict):
        raise BundleError(
            f"{where}: {kind.__qualname__} is no type of a configuration literal",
            remedy="use None, bool, int, float, str, list or dict",
        )
    if depth >= MAX_DEPTH:
        raise BundleError(f"{where}: nested deeper than {MAX_DEPTH} levels")
    if kind is list:
        return _container(
            "[]",
            [
                _literal(item, f"{where}[{index}]", depth + 1)
                for index, item in enumerate(value)
            ],
            depth,
        )
    return _container(
        "{}",
        [
            f"{_key(key, where)}: {_literal(item, f'{where}[{key!r}]', depth + 1)}"
            for key, item in value.items()
        ],
        depth,
    )


def _container(brackets: str, items: list[str], depth: int) -> str:
    if not items:
        return brackets
    lines = [f"{INDENT * (depth + 1)}{item}," for item in items]
    return "\n".join([brackets[0], *lines, f"{INDENT * depth}{brackets[1]}"])


def _key(key: Any, where: str) -> str:
    if type(key) is not str:
        raise BundleError(f"{where}: the key {key!r} is not a string")
    return _string(key)


def _integer(value: int, where: str) -> str:
    try:
        return repr(value)
    except ValueError as error:
        raise BundleError(f"{where}: an integer too long to be written out") from error


def _float(value: float, where: str) -> str:
    if not math.isfinite(value):
        raise BundleError(
            f"{where}: {value} is not a finite number",
            remedy="use null where a value is absent",
        )
    # black drops the plus sign of an exponent.
    return repr(value).replace("e+", "e")


def _string(value: str) -> str:
    # black changes to double quotes unless that costs more escapes.
    quote = "'" if value.count('"') > value.count("'") else '"'
    return f"{quote}{''.join(_escaped(c, quote) for c in value)}{quote}"


def _escaped(character: str, quote: str) -> str:
    if character == quote:
        return f"\\{quote}"
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    code = ord(character)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
