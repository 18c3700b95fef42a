"""A script that breaks a rule is never printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bundler.fakes import bundler, plan
from carl_bundle.bundler.checks import check_script
from carl_bundle.bundler.modules import Definition
from carl_bundle.bundler.ruler import sections_of, under_ruler
from carl_bundle.errors import BundleError


@pytest.fixture
def made(tmp_path: Path) -> tuple[str, dict[str, Any], tuple[Definition, ...]]:
    one = bundler(tmp_path)
    return one.render(plan()), plan().config, one.runtime.cut(["run"]).definitions


def with_section(script: str, name: str, text: str) -> str:
    """The script with another text in a section, and a ruler that fits it."""
    old = next(section for section in sections_of(script) if section.name == name)
    return script.replace(under_ruler(name, old.text), under_ruler(name, text))


def test_the_script_as_made_passes(made: Any) -> None:
    check_script(*made)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("def run(", "def  run(", "does not match its ruler"),
        ('    "seed": 7,\n    "spec"', '    "seed": 8,\n    "spec"', "its ruler"),
        ("def main(", "def main((", "not valid Python"),
        ('"""Trains', "\n# /// script\n# a = 1\n# ///\nX = 1\n", "2 metadata blocks"),
        ("# /// script", "# script", "0 metadata blocks"),
    ],
)
def test_a_changed_script_does_not(made: Any, old: str, new: str, message: str) -> None:
    script, config, definitions = made
    changed = script.replace(old, new, 1)
    if new.startswith("\n"):
        changed = changed.replace('nothing."""', "", 1)
    with pytest.raises(BundleError, match=message):
        check_script(changed, config, definitions)


def test_slices_are_compared_letter_by_letter(made: Any) -> None:
    script, config, definitions = made
    text = next(s.text for s in sections_of(script) if s.name == "rt/maths.py")
    for other, message in [
        (text.replace("LIMIT = 3", "LIMIT = 4"), r"rt/maths\.py:7 is not verbatim"),
        (text + "\n\n\ndef more(): ...", "more than its slices"),
        (text.split("\n\n\n")[0], "is not verbatim"),
    ]:
        changed = with_section(script, "rt/maths.py", other)
        with pytest.raises(BundleError, match=message):
            check_script(changed, config, definitions)


def test_the_configuration_is_compared_with_its_types(made: Any) -> None:
    script, config, definitions = made
    for other in ({**config, "seed": 7.0}, {**config, "seed": True}, {"spec": {}}):
        with pytest.raises(BundleError, match="does not evaluate"):
            check_script(script, other, definitions)


def test_torch_load_needs_weights_only(made: Any) -> None:
    script, config, definitions = made
    text = next(s.text for s in sections_of(script) if s.name == "wiring")
    for call, fine in [
        ("torch.load(x)", False),
        ("torch.load(x, weights_only=False)", False),
        ("torch.load(x, weights_only=True)", True),
    ]:
        wiring = text.replace('"""Run."""', f"x = torch = 1\n    {call}")
        changed = with_section(script, "wiring", wiring)
        if fine:
            check_script(changed, config, definitions)
            continue
        with pytest.raises(BundleError, match=r"torch\.load"):
            check_script(changed, config, definitions)
