"""Rulers: the comment lines that divide a script into sections with a digest."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from carl_bundle.bundler.source import lines_of

WIDTH = 88
CONFIGURATION = "configuration"
WIRING = "wiring"
HEADER = "header"
_RULER = re.compile(r"# ---- (?P<name>.+) sha256:(?P<digest>[0-9a-f]{12}) -+")


@dataclass(frozen=True)
class Section:
    """A part of a script.

    Attributes:
        name: `header`, `configuration`, a runtime module such as
            `carl_runtime_min/field.py`, the path of user code, or `wiring`.
        text: Its lines, ruler excluded, without blank lines around.
        digest: What its ruler says; empty for the header, which has no ruler.
        line: Where `text` starts in the script, from 1.
    """

    name: str
    text: str
    digest: str
    line: int

    @property
    def is_intact(self) -> bool:
        return not self.digest or self.digest == short_sha256(self.text)

    @property
    def end(self) -> int:
        """The last line of `text` in the script."""
        return self.line + self.text.count("\n")


def short_sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


def ruler(name: str, text: str) -> str:
    """Return the ruler above a section."""
    line = f"# ---- {name} sha256:{short_sha256(text)} "
    return line + "-" * max(WIDTH - len(line), 4)


def is_ruler(line: str) -> bool:
    return _RULER.fullmatch(line) is not None


def under_ruler(name: str, text: str) -> str:
    """Return a section with its ruler, as it stands in a script."""
    return f"{ruler(name, text)}\n{text}"


def sections_of(script: str) -> list[Section]:
    """Return the sections of a script in order; the first one is the header."""
    starts: list[tuple[str, str, int]] = [(HEADER, "", 0)]
    lines = lines_of(script)
    for number, line in enumerate(lines, 1):
        match = _RULER.fullmatch(line)
        if match:
            starts.append((match["name"], match["digest"], number))
    ends = [start - 1 for _, _, start in starts[1:]] + [len(lines)]
    sections = []
    for (name, digest, first), end in zip(starts, ends, strict=True):
        while end > first and not lines[end - 1].strip():
            end -= 1
        while first < end and not lines[first].strip():
            first += 1
        text = "\n".join(lines[first:end])
        sections.append(Section(name, text, digest, first + 1))
    return sections
