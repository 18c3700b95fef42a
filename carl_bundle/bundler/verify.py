"""Is a script as it was generated? PRISTINE, EDITED or FOREIGN."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from carl_bundle.bundler.provenance import Script, rerender
from carl_bundle.bundler.ruler import Section
from carl_bundle.errors import CarlError

Status = Literal["PRISTINE", "EDITED", "FOREIGN"]
RULERS = "the digests on its rulers"
RENDER = "a fresh render of its spec"


@dataclass(frozen=True)
class Finding:
    """A section that differs, and from what."""

    section: str
    line: int
    against: str


@dataclass(frozen=True)
class Verification:
    """What `carl verify` found.

    Attributes:
        status: PRISTINE, EDITED or FOREIGN.
        against: What the script was compared with.
        findings: The sections that differ.
        generator: The version that wrote the script; empty if FOREIGN.
        note: What limits the finding; empty if nothing does.
        command: The command that checks it fully, if another version is needed.
    """

    status: Status
    against: str
    findings: tuple[Finding, ...] = ()
    generator: str = ""
    note: str = ""
    command: str = ""


def verify(script: Script) -> Verification:
    """Compare a script with its rulers, and with a fresh render if we wrote it."""
    from carl_bundle import __version__

    damaged = [
        Finding(section.name, section.line, RULERS)
        for section in script.sections
        if not section.is_intact
    ]
    if script.has_crlf:
        damaged.append(Finding("line ends (CRLF)", 1, RENDER))
    if script.generator != __version__:
        return Verification(
            "EDITED" if damaged else "PRISTINE",
            RULERS,
            tuple(damaged),
            script.generator,
            "written by another version; its header has no ruler and was not compared",
            f"uvx carl-bundle@{script.generator} verify {script.shown}",
        )
    try:
        fresh = Script.parse(rerender(script), "a fresh render")
    except CarlError as error:
        damaged = damaged or [Finding("configuration", _config_line(script), RENDER)]
        note = f"its spec cannot be rendered here: {error}"
        return Verification("EDITED", RULERS, tuple(damaged), script.generator, note)
    differing = _differing(script, fresh)
    known = {finding.section for finding in damaged}
    damaged += [finding for finding in differing if finding.section not in known]
    if script.text != fresh.text and not damaged:
        damaged.append(Finding("blank lines or rulers", 1, RENDER))
    note = ""
    if differing and not known:
        note = "every ruler matches: another build of this version may have written it"
    status: Status = "EDITED" if damaged else "PRISTINE"
    return Verification(status, RENDER, tuple(damaged), script.generator, note)


def _differing(script: Script, fresh: Script) -> list[Finding]:
    """Sections that are not letter for letter those of the fresh render."""
    found = []
    for one, other in pair_sections(script.sections, fresh.sections):
        if one is None and other is not None:
            found.append(Finding(f"{other.name} (missing)", 1, RENDER))
        elif one is not None and (other is None or one.text != other.text):
            found.append(Finding(one.name, one.line, RENDER))
    return found


def pair_sections(
    one: tuple[Section, ...], other: tuple[Section, ...]
) -> list[tuple[Section | None, Section | None]]:
    """Match the sections of two scripts by name, in the order in which they stand."""
    names = [section.name for section in one], [section.name for section in other]
    pairs: list[tuple[Section | None, Section | None]] = []
    matcher = difflib.SequenceMatcher(None, *names, autojunk=False)
    for _, i1, i2, j1, j2 in matcher.get_opcodes():
        if names[0][i1:i2] == names[1][j1:j2]:
            pairs += zip(one[i1:i2], other[j1:j2], strict=True)
        else:
            pairs += [(section, None) for section in one[i1:i2]]
            pairs += [(None, section) for section in other[j1:j2]]
    return pairs


def _config_line(script: Script) -> int:
    return next((s.line for s in script.sections if s.name == "configuration"), 1)
