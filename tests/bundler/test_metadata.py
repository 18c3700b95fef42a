"""The PEP 723 block: derived, pinned, and read back by the reference pattern."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from carl_bundle.bundler.metadata import (
    BLOCK,
    metadata_block,
    read_block,
    requirements,
    spec_sha256,
)
from carl_bundle.bundler.pins import DISTRIBUTIONS, PINS
from carl_bundle.errors import BundleError, UsageError

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"


def test_dependencies_are_those_of_the_imports() -> None:
    found = requirements({"torch.nn", "json", "os.path", "tokenizers"}, (), ())
    assert found == [f"{name}=={PINS[name]}" for name in ("tokenizers", "torch")]


def test_what_trains_with_trl_is_pinned_with_it() -> None:
    found = requirements({"trl"}, (), ())
    assert found == [f"{name}=={PINS[name]}" for name in ("accelerate", "trl")]


def test_a_longer_module_name_may_need_more() -> None:
    found = requirements({"torch.utils.tensorboard"}, (), ())
    assert [one.partition("==")[0] for one in found] == ["tensorboard", "torch"]


def test_an_import_of_ours_that_nothing_provides_is_an_error() -> None:
    with pytest.raises(BundleError, match="import nowhere"):
        requirements({"nowhere"}, (), ())


def test_user_imports_need_dependencies() -> None:
    with pytest.raises(UsageError, match="imports scipy") as caught:
        requirements((), {"scipy.stats"}, ())
    assert "dependencies:" in caught.value.remedy
    assert requirements((), {"scipy.stats"}, ["scipy==1.17.0"]) == ["scipy==1.17.0"]


def test_a_distribution_may_have_another_name_than_its_module() -> None:
    assert requirements((), {"bs4"}, ["beautifulsoup4>=4"]) == ["beautifulsoup4>=4"]
    with pytest.raises(UsageError, match="imports bs4, scipy"):
        requirements((), {"bs4", "scipy"}, ["beautifulsoup4>=4"])


def test_a_pinned_distribution_keeps_its_pin() -> None:
    assert requirements((), (), ["torch"]) == [f"torch=={PINS['torch']}"]
    with pytest.raises(UsageError, match="another version"):
        requirements((), (), ["torch==2.0"])


@pytest.mark.parametrize(
    "text",
    ["", "a b", "x @ https://example.org/x.zip", 'x"\ny', "x\n# ///", "x; os\\", "-x"],
)
def test_other_than_plain_requirements_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a requirement"):
        requirements((), (), [text])


def test_the_block_is_found_and_read_back() -> None:
    extra = ['x[a,b]>=1,<2; python_version < "3.13"']
    block = metadata_block(requirements({"torch"}, (), extra), {"seed": 1}, "9.9")
    script = f"# notice\n\n{block}\nprint()\n"
    assert len(BLOCK.findall(script)) == 1
    content = read_block(script)
    assert content is not None
    assert content["dependencies"] == [f"torch=={PINS['torch']}", *extra]
    assert content["tool"]["carl"] == {
        "generator": "9.9",
        "format": 1,
        "spec-sha256": spec_sha256({"seed": 1}),
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", content["tool"]["uv"]["exclude-newer"])


def test_several_blocks_are_refused() -> None:
    block = metadata_block([], {}, "1")
    with pytest.raises(BundleError, match="2 metadata blocks"):
        read_block(f"{block}\n\n{block}\n")


def test_the_digest_of_a_spec_does_not_depend_on_the_order_of_keys() -> None:
    assert spec_sha256({"a": 1, "b": [2.5, "é"]}) == spec_sha256(
        {"b": [2.5, "é"], "a": 1}
    )


def test_every_distribution_has_a_pin() -> None:
    assert set(DISTRIBUTIONS.values()) <= PINS.keys()


@pytest.mark.skipif(not CONSTRAINTS.exists(), reason="an installed package has none")
def test_the_pins_are_those_that_the_tests_run_with() -> None:
    lines = CONSTRAINTS.read_text().split("\n")
    tested = dict(line.split("==") for line in lines if re.match(r"[\w.-]+==", line))
    tested = {
        re.sub(r"[-_.]+", "-", k).lower(): v.split("+")[0] for k, v in tested.items()
    }
    shared = PINS.keys() & tested.keys()
    assert {name: PINS[name] for name in shared} == {n: tested[n] for n in shared}
    assert {"torch", "trl", "transformers", "peft", "accelerate", "datasets"} <= shared
