"""How two scripts differ, section by section."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from carl_bundle.bundler.provenance import Script
from carl_bundle.bundler.ruler import CONFIGURATION, HEADER, WIRING, Section
from carl_bundle.bundler.source import lines_of
from carl_bundle.bundler.verify import pair_sections
from carl_bundle.errors import CarlError

Kind = Literal[
    "header", "dependencies", "configuration", "runtime", "user code", "wiring"
]
_ABSENT = object()


@dataclass(frozen=True)
class Change:
    """One difference.

    Attributes:
        kind: The part of the script.
        where: The section, the requirement, or the path of a key in CONFIG.
        before, after: The values there, None where there is none; for code, nothing.
        lines: The unified diff, for code.
    """

    kind: Kind
    where: str
    before: Any = None
    after: Any = None
    lines: tuple[str, ...] = ()


def diff(one: Script, other: Script) -> list[Change]:
    """Return the differences between two scripts in the order of a script."""
    changes = list(_dependencies(one, other))
    for before, after in pair_sections(one.sections, other.sections):
        if before is None or after is None:
            present = before or after
            assert present is not None
            kind = _kind(present, one, other)
            changes.append(
                Change(kind, present.name, lines=tuple(_unified(before, after)))
            )
        elif before.text == after.text:
            continue
        elif before.name == CONFIGURATION:
            changes += _configuration(one, other, before, after)
        elif lines := tuple(_unified(before, after)):
            changes.append(Change(_kind(before, one, other), before.name, lines=lines))
    return changes


def _kind(section: Section, one: Script, other: Script) -> Kind:
    if section.name == HEADER:
        return "header"
    if section.name == CONFIGURATION:
        return "configuration"
    if section.name == WIRING:
        return "wiring"
    user = section in one.user_sections or section in other.user_sections
    return "user code" if user else "runtime"


def _dependencies(one: Script, other: Script) -> Iterator[Change]:
    before, after = set(one.dependencies), set(other.dependencies)
    for gone in sorted(before - after):
        yield Change("dependencies", gone, before=gone)
    for new in sorted(after - before):
        yield Change("dependencies", new, after=new)


def _configuration(
    one: Script, other: Script, before: Section, after: Section
) -> list[Change]:
    """Key by key; line by line where a CONFIG cannot be evaluated."""
    try:
        found = list(_values("CONFIG", one.config, other.config))
    except CarlError:
        found = []
    return found or [
        Change("configuration", CONFIGURATION, lines=tuple(_unified(before, after)))
    ]


def _values(where: str, before: Any, after: Any) -> Iterator[Change]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            place = f"{where}[{key!r}]"
            yield from _values(place, before.get(key, _ABSENT), after.get(key, _ABSENT))
    elif type(before) is not type(after) or before != after:
        given = [None if v is _ABSENT else v for v in (before, after)]
        yield Change("configuration", where, before=given[0], after=given[1])


def _unified(before: Section | None, after: Section | None) -> list[str]:
    texts = [_lines(section) for section in (before, after)]
    return list(difflib.unified_diff(texts[0], texts[1], lineterm="", n=2))[2:]


def _lines(section: Section | None) -> list[str]:
    """The lines of a section; the requirements of a header are compared by name."""
    lines = lines_of(section.text) if section else []
    if section is None or section.name != HEADER or "# dependencies = [" not in lines:
        return lines
    start = lines.index("# dependencies = [")
    return lines[:start] + lines[lines.index("# ]", start) :]
