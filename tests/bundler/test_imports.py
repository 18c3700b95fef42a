"""The import block of a script, as isort (ruff's) and black leave it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import black
from hypothesis import given, settings
from hypothesis import strategies as st

from carl_bundle.bundler.imports import Import, import_block

NAMES = ["a1", "a10", "a2", "B", "Beta", "CONST", "_x", "zeta", "Tensor", "nan", "T"]
MODULES = ["os", "os.path", "sys", "math", "torch", "torch.nn", "trl", "Alpha"]

imports = st.builds(
    Import,
    st.sampled_from(MODULES),
    st.one_of(st.none(), st.sampled_from(NAMES)),
    st.sampled_from([None, None, None, "alias"]),
)


@settings(max_examples=25)
@given(st.lists(imports, max_size=25))
def test_black_and_isort_leave_the_block_alone(found: list[Import]) -> None:
    block = import_block([Import("__future__", "annotations", None), *found]) + "\n"
    assert black.format_str(block, mode=black.Mode()) == block
    ruff = Path(sys.executable).with_name("ruff")
    sorted_by_ruff = subprocess.run(
        [ruff, "check", "--isolated", "--select=I001", "--fix", "-q", "-"],
        input=block,
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    assert sorted_by_ruff == block


def test_groups_are_sorted_and_long_lines_are_broken() -> None:
    long = [Import("collections.abc", f"Name{i:02}", None) for i in range(12)]
    block = import_block([Import("torch", None, None), Import("os", None, None), *long])
    lines = block.split("\n")
    assert lines[:3] == ["import os", "from collections.abc import (", "    Name00,"]
    assert lines[-3:] == [")", "", "import torch"]
    assert max(map(len, lines)) <= 88


def test_a_package_of_ours_comes_last() -> None:
    block = import_block(
        [Import("carl_runtime_min.gate", "Gate", None), Import("torch", None, None)],
        "carl_runtime_min",
    )
    assert block == "import torch\n\nfrom carl_runtime_min.gate import Gate"
