"""Reading YAML strictly.

YAML 1.1, which PyYAML speaks, turns `no` into false, `1e-5` into a string, `012`
into ten and a date into an object. A spec is read by the rules of YAML 1.2: only
what looks like a number or like true, false and null is one. Duplicate keys and
aliases are refused.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from carl_bundle.errors import UsageError

MAX_BYTES = 1_048_576
"""Longest YAML text that is read, in bytes."""


def _refused(problem: str, at: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2, no aliases, no duplicate keys."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 (PyYAML's own table)

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise _refused(
                "aliases (*name) are not read; write the value out",
                self.peek_event(),  # type: ignore[no-untyped-call]
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, Any] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _refused(f"the key {key!r} is not a string; quote it", key_node)
            if key in seen:
                raise _refused(f"the key {key!r} stands there twice", key_node)
            seen[key] = None
        return super().construct_mapping(node, deep=deep)


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?(0|[1-9][0-9_]*)|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?"
        r"|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first)
    )


def parse(text: str, source: str) -> Any:
    """Return the plain values of a YAML text.

    Args:
        text: The YAML.
        source: What to call it in an error: a file name, or `--set`.

    Raises:
        UsageError: It is no YAML, or uses a feature that is not read; the message
            has line and column.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise UsageError(
            f"{source} is larger than {MAX_BYTES} bytes",
            remedy="a spec is a short text: put data into files of their own",
        )
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        problem = ", ".join(t for t in (error.context, error.problem) if t)
        raise UsageError(f"{place}: {problem}", remedy="correct that line") from error
    except yaml.YAMLError as error:
        raise UsageError(
            f"{source} is no YAML: {_first_line(error)}",
            remedy="save it as UTF-8 text without control characters",
        ) from error
    except RecursionError as error:
        raise UsageError(
            f"{source} is nested too deeply", remedy="flatten it"
        ) from error
    except ValueError as error:
        raise UsageError(
            f"{source}: {_first_line(error)}", remedy="correct the value"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["unreadable"])[0]
