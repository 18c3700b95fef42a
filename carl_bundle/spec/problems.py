"""Turns pydantic's findings into Problems for people."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from carl_bundle.errors import Problem, SpecError
from carl_bundle.spec.names import nearest

Path = tuple[str | int, ...]

_EXPECTED = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a string",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "tuple_type": "a list",
    "string_unicode": "valid Unicode text",
}

_KINDS: dict[type, str] = {
    bool: "true/false",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "a list",
    tuple: "a list",
    dict: "a mapping",
    type(None): "nothing",
}

_SEE_SCHEMA = "`carl schema` says what every field takes"
_DIGITS = "quoted numbers are strings: remove the quotes"


def report(
    error: ValidationError, data: Any, handler: Callable[[Any], Any]
) -> SpecError:
    """Return one SpecError with every problem of the data.

    Rules between fields need valid fields, so they are checked on the data without
    its faulty fields, and count where they do not concern those.

    Args:
        error: What pydantic found.
        data: What was validated.
        handler: pydantic's validation of the same model.
    """
    from carl_bundle.spec.rules import broken_rules

    found = _by_path(error, data)
    problems = [problem for _, problem in found]
    pruned = _without(data, [path for path, _ in found])
    try:
        spec = handler(pruned)
    except ValidationError:
        return SpecError(problems)
    faulty = [problem.where for problem in problems]
    problems += [p for p in broken_rules(spec) if not _concerns(p.where, faulty)]
    return SpecError(problems)


def dotted(path: Path) -> str:
    """Return a path as it is written in messages and in `--set`."""
    return ".".join(
        str(part) if re.fullmatch(r"[\w-]{1,60}", str(part)) else _short(part)
        for part in path
    )


def _by_path(error: ValidationError, data: Any) -> list[tuple[Path, Problem]]:
    """Return one problem a place, the deepest ones only."""
    details: dict[Path, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        details.setdefault(_real_path(detail, data), []).append(detail)
    return [
        (path, _problem(path, group))
        for path, group in details.items()
        if not any(
            len(other) > len(path) and other[: len(path)] == path for other in details
        )
    ]


def _real_path(detail: ErrorDetails, data: Any) -> Path:
    """Return the location without the marks that pydantic adds for unions."""
    path: list[str | int] = []
    for part in detail["loc"]:
        if isinstance(data, Mapping) and part in data:
            data = data[part]
        elif isinstance(data, list | tuple) and isinstance(part, int):
            if part >= len(data):
                break
            data = data[part]
        else:
            continue
        path.append(part)
    return tuple(path)


def _problem(path: Path, details: list[ErrorDetails]) -> Problem:
    messages: dict[str, str] = {}
    for detail in details:
        message, remedy = _explain(path, detail)
        messages.setdefault(message, remedy)
    remedies = dict.fromkeys(remedy for remedy in messages.values() if remedy)
    return Problem(
        dotted(path), ", or ".join(messages), "; ".join(remedies) or _SEE_SCHEMA
    )


def _explain(path: Path, detail: ErrorDetails) -> tuple[str, str]:
    """Return message and remedy for one finding."""
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return "unknown key", nearest(str(path[-1]), _known_names(path[:-1]))
    if kind == "literal_error":
        choices = context["expected"]
        if isinstance(value, str) and "'" in choices:
            names = re.findall(r"'([^']*)'", choices)
            return f"{_short(value)} is not {choices}", nearest(value, names)
        return f"expected {choices}, got {_short(value)}", ""
    if kind == "string_pattern_mismatch":
        return f"{_short(value)} does not have the form {context['pattern']}", ""
    if kind in _EXPECTED:
        quoted = isinstance(value, str) and kind in ("int_type", "float_type")
        return (
            f"expected {_EXPECTED[kind]}, got {_short(value)} "
            f"({_KINDS.get(type(value), type(value).__name__)})",
            _DIGITS if quoted and re.fullmatch(r"[-+.\deE]+", str(value)) else "",
        )
    if kind in ("too_short", "too_long"):
        wanted = context.get("min_length", context.get("max_length"))
        return f"has {context['actual_length']} items; {wanted} are needed", ""
    if kind == "value_error":
        return str(context["error"]), ""
    limits = detail["msg"].replace("Input should be", "must be")
    return f"{limits}, got {_short(value)}", ""


def _known_names(path: Path) -> list[str]:
    """Return the field names of the block at a path."""
    from carl_bundle.spec.train_spec import TrainSpec

    block: type[BaseModel] = TrainSpec
    for part in path:
        if isinstance(part, int) and "mix" not in block.model_fields:
            continue
        name = "mix" if isinstance(part, int) else part  # a list of data is a mixture
        annotation = block.model_fields[name].annotation
        nested = _block_in(annotation)
        if nested is None:
            return []
        block = nested
    return list(block.model_fields)


def _block_in(annotation: Any) -> type[BaseModel] | None:
    """Return the first block that a type annotation mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in get_args(annotation):
        found = _block_in(part)
        if found is not None:
            return found
    return None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _without(data: Any, paths: list[Path]) -> Any:
    """Return the data without the given places; a list with a fault goes whole."""
    for path in paths:
        cut = next((i for i, part in enumerate(path) if isinstance(part, int)), None)
        data = _drop(data, path[:cut])
    return data


def _drop(data: Any, path: Path) -> Any:
    if not path or not isinstance(data, Mapping) or path[0] not in data:
        return {} if not path else data
    rest = {key: value for key, value in data.items() if key != path[0]}
    if len(path) > 1:
        rest[path[0]] = _drop(data[path[0]], path[1:])
    return rest


def _concerns(where: str, faulty: list[str]) -> bool:
    """Whether a rule's fields include, contain or lie in a faulty one."""
    return any(
        field == fault or field.startswith(f"{fault}.") or fault.startswith(f"{field}.")
        for field in where.split(", ")
        for fault in faulty
    )
