"""Which wheels a target gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from carl_bundle.errors import ConfigurationError, UsageError
from carl_bundle.packing.pip import NoSuchWheelError
from carl_bundle.packing.resolve import build_of, resolve
from carl_bundle.packing.target import Target
from carl_bundle.packing.wheel import licence_of
from tests.packing.wheels import MANYLINUX, make_torch, make_wheel

ELEVEN, TWELVE = "cp311-linux-x86_64", "cp312-linux-x86_64"


def files(requirements: list[str], target: str) -> list[str]:
    return [one.file for one in resolve(requirements, Target.parse(target))]


def test_another_target_gets_other_wheels(wheels: Path) -> None:
    for minor, machine in ((11, "x86_64"), (12, "x86_64"), (12, "aarch64")):
        tag = f"cp3{minor}-cp3{minor}-manylinux_2_17_{machine}"
        make_wheel(wheels, "fast", tag=tag)
    make_wheel(wheels, "stable", tag=f"cp39-abi3-{MANYLINUX}")
    made = f"fast-1.0-cp312-cp312-{MANYLINUX}.whl"
    assert files(["fast==1.0"], TWELVE) == [made]
    assert files(["fast==1.0"], ELEVEN) == [made.replace("312", "311")]
    other = files(["fast==1.0"], "cp312-linux-aarch64")
    assert other == [made.replace("x86_64", "aarch64")]
    assert files(["stable"], TWELVE) == [f"stable-1.0-cp39-abi3-{MANYLINUX}.whl"]
    with pytest.raises(NoSuchWheelError, match=r"cp313-linux-x86_64.*fast"):
        files(["fast==1.0"], "cp313-linux-x86_64")


def test_markers_are_those_of_the_target_not_of_this_python(wheels: Path) -> None:
    needs = ["old; python_version < '3.12'", "new>=1; python_version >= '3.12'"]
    make_wheel(wheels, "a", requires=[*needs, "other; sys_platform == 'win32'"])
    make_wheel(wheels, "old", requires=["oldest"])
    make_wheel(wheels, "new", requires=["newest"])
    for name in ("oldest", "newest"):
        make_wheel(wheels, name)

    def names(target: str) -> list[str]:
        return [file.partition("-")[0] for file in files(["a"], target)]

    assert names(ELEVEN) == ["a", "old", "oldest"]
    assert names("cp313-linux-x86_64") == ["a", "new", "newest"]


def test_versions_that_only_the_target_wants_are_not_mixed_up(wheels: Path) -> None:
    """pip would take the version for the Python that it runs on."""
    needs = ["b==1.0; python_version < '3.12'", "b==2.0; python_version >= '3.12'"]
    make_wheel(wheels, "a", requires=needs)
    for version in ("1.0", "2.0"):
        make_wheel(wheels, "b", version)
    here = Target.here()
    expected = f"b-{'1.0' if here.minor < 12 else '2.0'}-py3-none-any.whl"
    assert files(["a"], str(here)) == ["a-1.0-py3-none-any.whl", expected]
    with pytest.raises(ConfigurationError):
        files(["a"], TWELVE if here.minor < 12 else ELEVEN)


def test_extras_bring_what_they_ask_for(wheels: Path) -> None:
    asks = ["b; extra == 'more'", "c; extra == 'most'"]
    make_wheel(wheels, "a", requires=asks, extras=["more", "most"])
    for name in ("b", "c"):
        make_wheel(wheels, name)
    assert [one[0] for one in files(["a[more]"], TWELVE)] == ["a", "b"]


def test_a_package_without_a_wheel_is_refused(wheels: Path) -> None:
    (wheels / "source-1.0.tar.gz").write_bytes(b"")
    with pytest.raises(NoSuchWheelError, match="source") as refused:
        files(["source==1.0"], TWELVE)
    assert "pip wheel" in refused.value.remedy
    assert refused.value.exit_code == 4


@pytest.mark.parametrize("where", ["git+https://host/a.git", "https://host/a-1.whl"])
def test_what_a_url_gives_is_refused(wheels: Path, where: str) -> None:
    with pytest.raises(UsageError, match="names a URL"):
        files([f"a @ {where}"], TWELVE)


@pytest.mark.parametrize(
    ("build", "version", "others"), [("cpu", "+cpu", 0), ("cu130", "", 2)]
)
def test_the_build_of_torch_is_the_one_asked_for(
    wheels: Path, build: str, version: str, others: int
) -> None:
    make_torch(wheels, f"cp312-cp312-{MANYLINUX}")
    found = resolve(["torch==2.13.0"], Target.parse(f"{TWELVE}-{build}"))
    assert [one.version for one in found if one.name == "torch"] == [f"2.13.0{version}"]
    assert len(found) == 1 + others
    assert build_of(found) == build


def test_another_build_is_not_taken_instead(wheels: Path) -> None:
    make_torch(wheels, f"cp312-cp312-{MANYLINUX}")
    with pytest.raises(ConfigurationError, match="there is cu130") as refused:
        resolve(["torch==2.13.0"], Target.parse(f"{TWELVE}-cu128"))
    assert "PIP_EXTRA_INDEX_URL" in refused.value.remedy


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ({"license_expression": "MIT", "license": "other"}, "MIT"),
        ({"classifier": ["License :: OSI Approved :: BSD License"]}, "BSD License"),
        ({"classifier": ["License :: OSI Approved"], "license": "ISC"}, "ISC"),
        ({"license": "Copyright\nAll of the text"}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_a_licence_is_one_line(metadata: dict[str, object], licence: str) -> None:
    assert licence_of(metadata) == licence
