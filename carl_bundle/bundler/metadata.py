"""The PEP 723 block: dependencies from the imports that were really emitted."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from carl_bundle.bundler.imports import is_stdlib
from carl_bundle.bundler.pins import (
    COMPANIONS,
    DISTRIBUTIONS,
    EXCLUDE_NEWER,
    PINS,
    REQUIRES_PYTHON,
)
from carl_bundle.errors import BundleError, UsageError

FORMAT = 1
"""Version of the layout of scripts; `carl verify` reads every version up to it."""

# The reference pattern of PEP 723: how every tool finds the block.
BLOCK = re.compile(
    r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$"
)
# PEP 508 without direct references; what a TOML string can hold as it is.
_REQUIREMENT = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)"
    r"(?P<rest>(?: ?\[[A-Za-z0-9._, -]+\])?"
    r"(?: ?(?:[<>=!~]=?|===) ?[A-Za-z0-9.*+!_-]+,?)*"
    r"(?: ?;[A-Za-z0-9_.'\"<>=!~() -]+)?)"
)


@dataclass(frozen=True)
class Requirement:
    """A requirement: the normalized distribution name and the text as written."""

    name: str
    text: str

    @classmethod
    def parse(cls, text: str) -> Requirement:
        """Raises UsageError unless it is a plain PEP 508 requirement."""
        match = _REQUIREMENT.fullmatch(text)
        if not match:
            raise UsageError(
                f"dependencies: {text!r} is not a requirement such as `scipy==1.17.0`",
                remedy="name a distribution of the package index, with a version",
            )
        return cls(normalized(match["name"]), text)


def normalized(name: str) -> str:
    """Return a distribution name in the form that indexes compare (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned_for(modules: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Return the pinned distributions for modules, and the modules not known."""
    needed: dict[str, str] = {}
    unknown: set[str] = set()
    for module in modules:
        root = module.partition(".")[0]
        for known in {module, root} & DISTRIBUTIONS.keys():
            needed[DISTRIBUTIONS[known]] = PINS[DISTRIBUTIONS[known]]
        if root not in DISTRIBUTIONS and not is_stdlib(root):
            unknown.add(root)
    return needed, sorted(unknown)


def requirements(
    modules: Iterable[str], user_modules: Iterable[str], extra: Iterable[str]
) -> list[str]:
    """Return the sorted requirements of a script.

    Args:
        modules: What the runtime and the wiring import.
        user_modules: What the user's code imports.
        extra: The `dependencies` of the spec; a bare name that is pinned here gets
            its pin.

    Raises:
        BundleError: Our own code imports what no distribution is known for.
        UsageError: The user's code does, or asks for another version of a pin.
    """
    needed, unknown = pinned_for(modules)
    if unknown:
        raise BundleError(
            f"no distribution is known for `import {unknown[0]}`",
            remedy="add it to carl_bundle/bundler/pins.py",
        )
    user_needed, user_unknown = pinned_for(user_modules)
    needed |= user_needed
    for name in tuple(needed):
        needed |= {other: PINS[other] for other in COMPANIONS.get(name, ())}
    listed = [Requirement.parse(text) for text in extra]
    for one in listed:
        if one.name not in PINS:
            continue
        if one.text not in (one.name, f"{one.name}=={PINS[one.name]}"):
            raise UsageError(
                f"dependencies: {one.text!r} is another version than the "
                f"{one.name}=={PINS[one.name]} that scripts are written for",
                remedy=f"remove it, or write {one.name}",
            )
        needed[one.name] = PINS[one.name]
    others = {one.name: one.text for one in listed if one.name not in PINS}
    _check_provided(user_unknown, set(others))
    pinned = {name: f"{name}=={version}" for name, version in needed.items()}
    return [text for _, text in sorted((pinned | others).items())]


def _check_provided(modules: list[str], distributions: set[str]) -> None:
    """Every unknown module needs a requirement: its namesake, or one left over."""
    missing = [m for m in modules if normalized(m) not in distributions]
    spare = len(distributions - {normalized(module) for module in modules})
    if len(missing) > spare:
        names = ", ".join(missing)
        raise UsageError(
            f"the code imports {names}, and the spec does not say what provides that",
            remedy=f"add what provides {names} to `dependencies:`",
        )


def canonical_json(value: Any) -> str:
    """Return the one JSON text of a value: sorted keys, no blanks, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def spec_sha256(spec: Mapping[str, Any]) -> str:
    """Return the digest of a frozen spec, as scripts and run records carry it."""
    return hashlib.sha256(canonical_json(spec).encode("ascii")).hexdigest()


def metadata_block(
    dependencies: Iterable[str], spec: Mapping[str, Any], version: str
) -> str:
    """Return the PEP 723 block, without a final line end."""
    lines = [
        f'requires-python = "{REQUIRES_PYTHON}"',
        "dependencies = [",
        *(f"    {_toml(requirement)}," for requirement in dependencies),
        "]",
        "",
        "[tool.uv]",
        f'exclude-newer = "{EXCLUDE_NEWER}"',
        "",
        "[tool.carl]",
        f"generator = {_toml(version)}",
        f"format = {FORMAT}",
        f'spec-sha256 = "{spec_sha256(spec)}"',
    ]
    body = [f"# {line}" if line else "#" for line in lines]
    return "\n".join(["# /// script", *body, "# ///"])


def read_block(text: str) -> dict[str, Any] | None:
    """Return the content of a script's only metadata block, None if it has none.

    Raises:
        BundleError: There are several, or it is not TOML.
    """
    import tomllib

    found = [match for match in BLOCK.finditer(text) if match["type"] == "script"]
    if not found:
        return None
    if len(found) > 1:
        raise BundleError(f"the script has {len(found)} metadata blocks, not one")
    content = "".join(
        line[2:] if line.startswith("# ") else line[1:]
        for line in found[0]["content"].splitlines(keepends=True)
    )
    try:
        return tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise BundleError(f"the metadata block is not TOML: {error}") from error


def _toml(text: str) -> str:
    """A TOML basic string; for printable ASCII it is the JSON string."""
    return json.dumps(text)
