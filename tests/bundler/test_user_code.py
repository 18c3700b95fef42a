"""User code comes along whole, or is refused by file and line."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import black
import pytest

from bundler.fakes import bundler, plan
from carl_bundle.bundler.ruler import sections_of
from carl_bundle.errors import UserCodeError

REWARD = '''\
#!/usr/bin/env python
# Copyright (c) 2020 Somebody Else
# SPDX-License-Identifier: Apache-2.0
"""My rewards."""
from __future__ import annotations

import re
import math as m

from helper import scale

WORD = re.compile(r"\\w+", re.I | re.M)
LEVELS = {'a': [1, 2.5], 'b': -3}
hint: int


class Odd( object ):
    x = 1


def score(completions, **columns):
    return [scale(m.floor(len(WORD.findall(c)))) for c in completions]
'''


def render(root: Path, *functions: str, **files: str) -> str:
    for name, text in files.items():
        (root / f"{name}.py").write_text(text, encoding="utf-8")
    return bundler(root).render(plan(*functions), user_root=root)


def test_a_file_comes_along_with_what_it_imports_beside_it(tmp_path: Path) -> None:
    helper = "import math\n\ndef scale(x):\n    return x * math.pi\n"
    script = render(tmp_path, "reward.py:score", reward=REWARD, helper=helper)
    sections = {section.name: section for section in sections_of(script)}
    assert list(sections)[-3:] == ["helper.py", "reward.py", "wiring"]
    body = sections["reward.py"].text
    assert body.startswith("# fmt: off\n# Copyright (c) 2020 Somebody Else\n")
    assert body.endswith("\n# fmt: on")
    for gone in ("__future__", "from helper", "#!/usr"):
        assert gone not in body
    for kept in ("class Odd( object ):", '"""My rewards."""', "hint: int", "as m"):
        assert kept in body
    assert black.format_str(script, mode=black.Mode()) == script
    space = {"__name__": "script"}
    exec(compile(script, "script", "exec"), space)
    assert space["score"](["a b", ""]) == [2 * 3.141592653589793, 0.0]  # type: ignore[operator]


def test_relative_imports_and_folders_are_followed(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "base.py").write_text("def half(x):\n    return x / 2\n")
    (folder / "top.py").write_text(
        "from .base import half\n\ndef go(x):\n    return half(x)\n"
    )
    script = render(tmp_path, "mine/top.py:go")
    assert [s.name for s in sections_of(script)][-3:-1] == [
        "mine/base.py",
        "mine/top.py",
    ]


def test_a_file_named_twice_comes_along_once(tmp_path: Path) -> None:
    text = "def f(): ...\ndef g(): ...\n"
    script = render(tmp_path, "r.py:f", "r.py:g", r=text)
    assert script.count("def f()") == 1


def test_files_may_import_each_other(tmp_path: Path) -> None:
    a = "from b import g\ndef f():\n    return g\n"
    b = "from a import f\ndef g():\n    return f\n"
    script = render(tmp_path, "a.py:f", a=a, b=b)
    assert [s.name for s in sections_of(script)][-3:-1] == ["b.py", "a.py"]


def test_local_names_may_be_those_of_the_script(tmp_path: Path) -> None:
    text = "def f(LIMIT, main):\n    run = LIMIT\n    return run, main\n"
    assert "def f(LIMIT" in render(tmp_path, "r.py:f", r=text)


def test_a_shared_import_is_no_collision(tmp_path: Path) -> None:
    text = "import math\nimport sys\n\ndef f():\n    return math, sys\n"
    assert "\nimport sys\n\ndef f()" in render(tmp_path, "r.py:f", r=text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f(): ...\nprint()\n", r"r\.py:2: this would run"),
        ("def f(): ...\nif 1:\n    X = 1\n", r"r\.py:2: this would run"),
        ("X = open('x')\ndef f(): ...\n", r"r\.py:1: this would run"),
        ("X = [f() for f in ()]\ndef f(): ...\n", r"r\.py:1: this would run"),
        ("X: int = g()\ndef f(): ...\n", r"r\.py:1: this would run"),
        ("from os import *\ndef f(): ...\n", r"r\.py:1: this would run"),
        ("from helper import *\ndef f(): ...\n", r"r\.py:1: cannot follow"),
        ("from helper import scale as s\ndef f(): ...\n", r"r\.py:1: cannot follow"),
        ("from helper import gone\ndef f(): ...\n", r"r\.py:1: cannot follow"),
        ("import helper\ndef f(): ...\n", r"r\.py:1: helper is a file beside"),
        ("def f():\n    # /// script\n    ...\n", r"r\.py:2: .*metadata"),
        ("def f(): ...\n# fmt: on\n", r"r\.py:2: .*divide"),
        (
            "def f(): ...\n# ---- wiring sha256:0123456789ab ----\n",
            r"r\.py:2: .*divide",
        ),
        ("def f():\n    return gone\n", r"r\.py:2: gone is not defined"),
        ("def f(): return 1 +\n", r"r\.py:1: not valid Python"),
        ("f = 1\n", "defines no function f"),
        ("def g(): ...\n", "defines no function f"),
        ("def f(): ...\ndef run(): ...\n", r"r\.py:2: run .*rt/maths\.py"),
        ("def f(): ...\ndef main(): ...\n", r"r\.py:2: main .*t\.jinja"),
        ("CONFIG = 1\ndef f(): ...\n", r"r\.py:1: CONFIG .*configuration"),
        ("def f(): ...\ndef min(): ...\n", r"r\.py:2: min .*Python"),
        ("import os as math\ndef f(): ...\n", r"r\.py:1: imports math"),
        ("import scipy\ndef f(): ...\n", "imports scipy"),
        ("def f(): ...\ndef f(): ...\n", r"two definitions of f: r\.py:1 and r\.py:2"),
    ],
)
def test_what_cannot_be_carried_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(Exception, match=message) as caught:
        render(tmp_path, "r.py:f", r=text, helper="def scale(): ...\n")
    assert caught.value.exit_code == 2  # type: ignore[attr-defined]
    assert caught.value.remedy  # type: ignore[attr-defined]


def test_names_that_the_script_does_not_use_are_free(tmp_path: Path) -> None:
    text = "def unused(): ...\ndef f(): ...\ndef max(): ...\n"
    assert "def max()" in render(tmp_path, "r.py:f", r=text)


def test_two_files_may_not_define_the_same_name(tmp_path: Path) -> None:
    text = "def f(): ...\ndef same(): ...\n"
    other = "def g(): ...\ndef same(): ...\n"
    with pytest.raises(UserCodeError, match="two definitions of same"):
        render(tmp_path, "a.py:f", "b.py:g", a=text, b=other)


@pytest.mark.parametrize("name", ["gone.py", "a\nb.py", "a\u202e.py"])
def test_a_path_that_leads_nowhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserCodeError):
        render(tmp_path, f"{name}:f")


def test_what_user_code_does_is_its_own_business(tmp_path: Path) -> None:
    text = dedent("""
        def f(x):
            return eval(x)
        """)
    assert "eval(x)" in render(tmp_path, "r.py:f", r=text)
