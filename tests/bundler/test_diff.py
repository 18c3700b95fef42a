"""Two scripts are compared section by section."""

from __future__ import annotations

from carl_bundle import TrainSpec, bundle
from carl_bundle.bundler.diff import Change, diff
from carl_bundle.bundler.provenance import Script


def compared(one: str, other: str) -> list[Change]:
    return diff(Script.parse(one), Script.parse(other))


def test_equal_scripts_have_no_difference(default_script: str) -> None:
    assert compared(default_script, default_script) == []


def test_another_seed_is_two_keys_and_the_digest_of_the_spec(
    default_script: str,
) -> None:
    changes = compared(default_script, bundle(TrainSpec(seed=1)))
    config = [change for change in changes if change.kind == "configuration"]
    assert {change.kind for change in changes} == {"header", "configuration"}
    assert Change("configuration", "CONFIG['seed']", 42, 1) in config
    assert Change("configuration", "CONFIG['spec']['seed']", None, 1) in config


def test_another_method_changes_code_and_dependencies(default_script: str) -> None:
    changes = compared(default_script, bundle(TrainSpec(method="sft")))
    by_kind = {change.kind for change in changes}
    assert {"runtime", "wiring", "configuration"} <= by_kind
    gone = [c for c in changes if c.where == "carl_runtime_min/rewards.py"]
    assert gone
    assert all(line[0] in "-@" for line in gone[0].lines)


def test_an_edit_in_code_is_a_unified_diff(default_script: str) -> None:
    other = default_script.replace("def main() -> int:", "def main() -> int:  # mine")
    [change] = compared(default_script, other)
    assert (change.kind, change.where) == ("wiring", "wiring")
    assert "+def main() -> int:  # mine" in change.lines
    assert "-def main() -> int:" in change.lines


def test_a_dependency_is_named(default_script: str) -> None:
    changes = compared(default_script, default_script.replace('"torch==', '"torch>='))
    assert [(c.kind, c.where[:7]) for c in changes] == [
        ("dependencies", "torch=="),
        ("dependencies", "torch>="),
    ]


def test_a_configuration_that_is_no_literal_is_compared_by_line(
    default_script: str,
) -> None:
    other = default_script.replace('"seed": 42', '"seed": int("42")', 1)
    [change] = compared(default_script, other)
    assert change.kind == "configuration"
    assert '+    "seed": int("42"),' in change.lines
