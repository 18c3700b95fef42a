"""The runtime keeps to the subset of Python that can be cut exactly."""

from __future__ import annotations

from carl_bundle.bundler.cut import Runtime
from carl_bundle.bundler.subset import violations


def test_every_module_keeps_to_the_bundlable_subset() -> None:
    assert [str(violation) for violation in violations()] == []


def test_every_definition_can_be_cut() -> None:
    runtime = Runtime.read()
    for name in runtime.definitions:
        assert name in {one.name for one in runtime.cut([name]).definitions}
