"""Each rule of the bundlable subset, broken once."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundler.fakes import FUTURE, package
from carl_bundle.bundler.subset import violations

GOOD = '''
import math
import re
from dataclasses import dataclass

from rt.other import TOP

LIMIT = 2 * math.log(2) + TOP
"""What a run may use."""

PATTERN = re.compile("a+")
NAMES = ("a", "b")


@dataclass
class Row:
    other: int = LIMIT


def use(rows: list[Row]) -> int:
    import json

    return len([json.dumps(vars(row)) for row in rows])
'''


def broken(tmp_path: Path, text: str, start: str = FUTURE) -> list[str]:
    other = f"{FUTURE}TOP = 3\n\n\ndef shared(): ...\n"
    root = package(tmp_path, other=other, a=start + text.lstrip("\n"))
    return [str(one) for one in violations(root, ("other", "a"))]


def test_ordinary_code_passes(tmp_path: Path) -> None:
    assert broken(tmp_path, GOOD) == []


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("print()", "rt/a.py:3: top level holds"),
        ("if True:\n    X = 1", "rt/a.py:3: top level holds"),
        ("X, Y = 1, 2", "rt/a.py:3: top level holds"),
        ("X = 1; Y = 2", "rt/a.py:3: two statements"),
        ("from . import other", "rt/a.py:3: a relative import"),
        ("from math import *", "rt/a.py:3: a star import"),
        ("import rt.other", "rt/a.py:3: write `from rt"),
        ("from rt.other import TOP as T", "rt/a.py:3: write `from rt"),
        ("from rt.other import GONE", "rt/a.py:3: rt.other defines no GONE"),
        ("import carl_bundle.errors", "rt/a.py:3: the runtime imports nothing"),
        ("from x import TOP", "rt/a.py:3: imports TOP, defined by rt/other.py:3"),
        ("def f(TOP): ...", "rt/a.py:3: a local TOP hides rt/other.py:3"),
        ("def f():\n    for TOP in (): ...", "rt/a.py:4: a local TOP hides"),
        ("def f(x):\n    return [TOP for TOP in x]", "rt/a.py:4: a local TOP"),
        ("def f(x):\n    with x as TOP: ...", "rt/a.py:4: a local TOP"),
        (
            "def f(x):\n    try: ...\n    except OSError as TOP: ...",
            "rt/a.py:5: a local TOP",
        ),
        ("def f():\n    def shared(): ...", "rt/a.py:4: a local shared"),
        ("def f():\n    import TOP", "rt/a.py:4: a local TOP"),
        ("import os\ndef f(os): ...", "rt/a.py:4: a local os hides the import"),
        ("class C:\n    def f(self, TOP): ...", "rt/a.py:4: a local TOP"),
        ("def f():\n    return lambda TOP: 1", "rt/a.py:4: a local TOP"),
        ("def max(): ...", "rt/a.py:3: max hides the built-in"),
        ("def f():\n    global X\n    X = 1", "rt/a.py:4: a global statement"),
        ("def f():\n    return __file__", "rt/a.py:4: __file__ has another meaning"),
        ("def f():\n    return globals()", "rt/a.py:4: globals has another"),
        ("def f():\n    return vars()", "rt/a.py:4: vars() has another"),
        ("def f():\n    return gone", "rt/a.py:4: gone is neither"),
        ("def f():\n    from rt.other import TOP as t", "rt/a.py:4: imports of the"),
        ("def g(): ...\nX = {'g': g}", "rt/a.py:4: X is a registry: it holds g"),
        ("X = open('f')", "rt/a.py:3: X is computed by a call"),
        ("X = lambda: 1", "rt/a.py:3: X is no constant expression"),
    ],
)
def test_a_broken_rule_is_named_with_its_line(
    tmp_path: Path, text: str, place: str
) -> None:
    found = broken(tmp_path, text + "\n")
    assert any(one.startswith(place) for one in found), found


def test_every_module_needs_the_future_import(tmp_path: Path) -> None:
    assert broken(tmp_path, "X = 1\n", start="") == [
        "rt/a.py:1: lacks `from __future__ import annotations`"
    ]
