"""Which machine a target is."""

from __future__ import annotations

import platform
import sys

import pytest
from packaging.markers import Marker, default_environment

from carl_bundle.errors import UsageError
from carl_bundle.packing.target import Target


@pytest.mark.parametrize(
    "text",
    ["cp312-linux-x86_64", "cp313-linux-aarch64-cpu", "cp311-linux-x86_64-cu130"],
)
def test_a_target_reads_back_as_itself(text: str) -> None:
    assert str(Target.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["cp310-linux-x86_64", "cp312-win-amd64", "pp312-linux-x86_64", "cp312-linux", ""],
)
def test_no_other_machine_can_be_named(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        Target.parse(text)
    assert "cp312-linux-x86_64" in refused.value.remedy


def test_here_is_this_python(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Target.here()
    assert here.minor == sys.version_info.minor
    assert here.machine == platform.machine()
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UsageError) as refused:
        Target.here()
    assert "--target" in refused.value.remedy


def test_markers_say_all_that_pep_508_asks() -> None:
    assert Target.here().markers.keys() == default_environment().keys()
    twelve = Target.parse("cp312-linux-aarch64").markers
    assert Marker("python_version == '3.12'").evaluate(twelve)
    assert not Marker("platform_machine == 'x86_64'").evaluate(twelve)


def test_older_manylinux_tags_are_named_one_by_one() -> None:
    options = Target.parse("cp312-linux-x86_64").pip_options
    for name in ("manylinux_2_28", "manylinux_2_17", "manylinux2014", "manylinux1"):
        assert f"{name}_x86_64" in options
    assert "manylinux_2_29_x86_64" not in options
