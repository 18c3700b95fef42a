"""The wheels that a script needs on a target: all of them, and no others.

pip chooses the versions. But it reads markers such as `python_version < "3.12"` as of
the machine that it runs on, so what they ask for on the target is worked out here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from packaging.requirements import InvalidRequirement, Requirement

from carl_bundle.bundler.metadata import normalized
from carl_bundle.errors import ConfigurationError, UsageError
from carl_bundle.packing.pip import NoSuchWheelError, report
from carl_bundle.packing.target import Target
from carl_bundle.packing.wheel import Wheel

BUILT = ("torch", "torchvision")
"""Distributions with a build for each version of CUDA."""

_ROUNDS = 10


def resolve(requirements: Iterable[str], target: Target) -> list[Wheel]:
    """The wheels for requirements of a script, by name.

    Raises:
        UsageError: One is no plain requirement: it names a URL or a repository.
        ConfigurationError: There are no such wheels, or not of that build of torch.
        RemoteError: The package index does not answer.
    """
    roots = [one for one in map(_plain, requirements) if _holds(one, target)]
    asked = [_bare(one) for one in roots]
    if target.build:
        asked = [_of_build(text, target) for text in asked]
    added: list[str] = []
    for _ in range(_ROUNDS):
        found = {wheel.name: wheel for wheel in report([*asked, *added], target)}
        names, missing = closure(roots, found, target)
        if not missing:
            return [found[name] for name in sorted(names)]
        if set(missing) <= set(added):
            break
        added += [text for text in missing if text not in added]
    raise ConfigurationError(
        f"the wheels found on Python 3 here do not make up {target}: {missing[0]}",
        remedy=f"run this command with Python {target.python}",
    )


def build_of(wheels: Iterable[Wheel]) -> str | None:
    """The build of torch among wheels; None if there is no torch."""
    return next((wheel.build for wheel in wheels if wheel.name == "torch"), None)


def closure(
    roots: Sequence[Requirement], found: dict[str, Wheel], target: Target
) -> tuple[set[str], list[str]]:
    """Names that the target needs of what was found, and requirements not met by it."""
    todo, names, missing = list(roots), set(), []
    seen: set[str] = set()
    while todo:
        one = todo.pop()
        if str(one) in seen:
            continue
        seen.add(str(one))
        wheel = found.get(normalized(one.name))
        if wheel is None or not one.specifier.contains(wheel.version, prereleases=True):
            missing.append(_bare(one))
            continue
        names.add(wheel.name)
        for text in wheel.requires:
            needed = Requirement(text)
            if any(_holds(needed, target, extra) for extra in ("", *one.extras)):
                todo.append(needed)
    return names, sorted(missing)


def _plain(text: str) -> Requirement:
    """A requirement of an index. UsageError if it is none."""
    try:
        found = Requirement(text)
    except InvalidRequirement as error:
        raise UsageError(f"{text!r} is no requirement", remedy="correct it") from error
    if found.url:
        raise UsageError(
            f"{text!r} names a URL: what it gives can change, and has no lock",
            remedy="build a wheel of it, and name its folder in PIP_FIND_LINKS",
        )
    return found


def _holds(one: Requirement, target: Target, extra: str = "") -> bool:
    given = {**target.markers, "extra": extra}
    return one.marker is None or one.marker.evaluate(given)


def _bare(one: Requirement) -> str:
    """A requirement whose marker has been dealt with."""
    extras = f"[{','.join(sorted(one.extras))}]" if one.extras else ""
    return f"{one.name}{extras}{one.specifier}"


def _of_build(text: str, target: Target) -> str:
    """A requirement that only the asked build of torch meets; others as they are.

    An index may hold `2.13.0+cu130`, or that build as `2.13.0`, beside others.
    """
    name, _, version = text.partition("==")
    if normalized(name) not in BUILT:
        return text
    found: list[str] = []
    for choice in (f"{name}=={version}+{target.build}", f"{name}==={version}"):
        try:
            wheel = report([choice], target, alone=True)[0]
        except NoSuchWheelError:
            continue
        if normalized(name) != "torch" or wheel.build == target.build:
            return choice
        found.append(wheel.build)
    there = f"there is {' and '.join(found)}" if found else "there is no other"
    raise ConfigurationError(
        f"pip finds no {text} of the build {target.build}; {there}",
        remedy="name the index of that build in PIP_EXTRA_INDEX_URL, "
        "or another build: --target",
    )
