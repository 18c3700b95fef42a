"""Tier one: the scripts of the golden specs, byte for byte."""

from __future__ import annotations

import difflib
import hashlib
import json

import pytest

from carl_bundle.spec.load import load
from tools.make_golden import CASES, ROOT, rendered


@pytest.mark.parametrize("case", CASES)
def test_a_golden_spec_renders_its_golden_script(case: str) -> None:
    path = ROOT / "golden" / case / "train.py"
    found, expected = rendered(case), path.read_bytes().decode()
    if found != expected:
        lines = difflib.unified_diff(
            expected.splitlines(), found.splitlines(), "golden", "rendered", lineterm=""
        )
        shown = "\n".join(list(lines)[:200])
        pytest.fail(
            f"{shown}\n\nif this change is meant: make golden CASES={case}, "
            "then read git diff golden/",
            pytrace=False,
        )


def test_the_quick_start_was_frozen_from_the_config_beside_it() -> None:
    folder = ROOT / "golden" / "quickstart"
    frozen = load(folder / "spec.yaml").spec.model.frozen
    config = (folder / "model" / "config.json").read_bytes()
    assert frozen is not None
    assert frozen.config_sha256 == hashlib.sha256(config).hexdigest()
    assert frozen.model_type == json.loads(config)["model_type"]
