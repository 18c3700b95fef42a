"""What is cut, in which order, and what cannot be cut."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundler.fakes import names, package, runtime
from carl_bundle.bundler.cut import Runtime
from carl_bundle.errors import BundleError


def test_a_method_or_local_of_the_same_name_pulls_nothing_in(tmp_path: Path) -> None:
    rt = runtime(
        tmp_path,
        a="""
        LN2 = 0.69

        def mean(x):
            return x

        def unused():
            return 0

        class Reward:
            def __call__(self, t):
                unused_here = t.mean(unused=1)
                return unused_here / LN2
        """,
    )
    assert names(rt, "Reward") == ["LN2", "Reward"]


def test_defaults_decorators_bases_and_annotations_are_followed(tmp_path: Path) -> None:
    rt = runtime(
        tmp_path,
        a="""
        def default():
            return 1

        def wrap(f):
            return f

        class Base: ...

        class Hint: ...

        @wrap
        def reward(x: Hint, f=default):
            return f()

        class Child(Base): ...
        """,
    )
    assert names(rt, "reward") == ["default", "wrap", "Hint", "reward"]
    assert names(rt, "Child") == ["Base", "Child"]


def test_scopes_of_comprehensions_classes_and_nested_functions(tmp_path: Path) -> None:
    rt = runtime(
        tmp_path,
        a="""
        def total(): ...

        def item(): ...

        def inner(): ...

        class Holder:
            total = 1

            def method(self):
                return total()

        class Outer:
            item = 1

            class Inner:
                total = item

        def loops(rows):
            return [item for item in rows] + [inner() for x in rows]

        def walrus(rows):
            return [y := row for row in rows], y
        """,
    )
    assert names(rt, "Holder") == ["total", "Holder"]
    assert names(rt, "Outer") == ["item", "Outer"]
    assert names(rt, "loops") == ["inner", "loops"]
    assert names(rt, "walrus") == ["walrus"]


def test_every_binding_form_is_local(tmp_path: Path) -> None:
    rt = runtime(
        tmp_path,
        a="""
        def everything(a, /, b, *c, d, **e):
            import os.path
            from sys import argv as arguments
            with open(a) as f:
                pass
            try:
                pass
            except OSError as g:
                print(g)
            for h, (i, *j) in b:
                print(h, i, j)
            match d:
                case [k, *l]:
                    print(k, l)
                case {"x": m, **n}:
                    print(m, n)
                case o:
                    print(o)

            def p():
                nonlocal q
                q = 2

            q = 1
            class r: ...
            s: int = 0
            return lambda t: (c, e, f, p, q, r, s, t, os, arguments)
        """,
    )
    assert names(rt, "everything") == ["everything"]


def test_text_is_verbatim_from_the_attached_comment_to_the_last_line(
    tmp_path: Path,
) -> None:
    text = (
        "from __future__ import annotations\n"
        "import functools\n\n"
        "# not attached\n\n"
        "# attached,\n# in two lines\n"
        "@functools.cache\n"
        "# between\n"
        "def f(x):  # why\n"
        '    """Text\x0cwith \u2028 and \x85."""\n'
        "    return x\n"
        "    # below\n"
        "\n"
        "X = 1  # one\n"
    )
    rt = Runtime.read(package(tmp_path, a=text), ("a",))
    f, x = rt.definitions["f"], rt.definitions["X"]
    assert f.text == text[text.index("# attached,") : text.index("\n\nX = 1")]
    assert (f.first, f.last) == (6, 13)
    assert x.text == "X = 1  # one"


def test_windows_line_ends_give_the_same_text(tmp_path: Path) -> None:
    unix = "def f():\n    return 1\n"
    folder = package(tmp_path, a=unix)
    (folder / "b.py").write_bytes(unix.replace("f()", "g()").encode())
    (folder / "b.py").write_bytes(b"def g():\r\n    return 1\r\n")
    rt = Runtime.read(folder, ("a", "b"))
    assert rt.definitions["g"].text == "def g():\n    return 1"


def test_modules_keep_their_reading_order_and_source_order_within(
    tmp_path: Path,
) -> None:
    rt = runtime(
        tmp_path,
        first="""
        from rt.second import late

        def early():
            return late() + below()

        def below():
            return 1
        """,
        second="""
        def late():
            return 2
        """,
    )
    assert names(rt, "early") == ["early", "below", "late"]


def test_a_slice_moves_up_only_for_a_use_at_definition_time(tmp_path: Path) -> None:
    rt = runtime(
        tmp_path,
        first="""
        from rt.second import LIMIT, Base, later

        class Child(Base):
            limit = LIMIT

            def run(self):
                return later()
        """,
        second="""
        def later():
            return 1

        LIMIT = 2

        class Base: ...
        """,
    )
    assert names(rt, "Child") == ["LIMIT", "Base", "Child", "later"]


def test_a_decorator_takes_what_its_body_needs_with_it(tmp_path: Path) -> None:
    rt = runtime(
        tmp_path,
        first="""
        from rt.second import wrap

        @wrap
        def f(): ...
        """,
        second="""
        def wrap(g):
            return helper(g)

        def helper(g):
            return g
        """,
    )
    assert names(rt, "f") == ["wrap", "helper", "f"]


def test_bodies_may_refer_to_each_other(tmp_path: Path) -> None:
    rt = runtime(
        tmp_path,
        a="""
        def even(n):
            return n == 0 or odd(n - 1)

        def odd(n):
            return n != 0 and even(n - 1)
        """,
    )
    assert names(rt, "odd") == ["even", "odd"]


def test_definitions_that_need_each_other_are_an_error(tmp_path: Path) -> None:
    rt = runtime(tmp_path, a="class A(B): ...\n\nclass B(A): ...\n")
    with pytest.raises(BundleError, match="A -> B -> A"):
        rt.cut(["A"])


def test_an_unknown_name_is_an_error_with_file_and_line(tmp_path: Path) -> None:
    rt = runtime(tmp_path, a="def f():\n    return nothing\n")
    with pytest.raises(BundleError, match=r"rt/a\.py:4: f uses nothing"):
        rt.cut(["f"])


def test_two_definitions_of_a_name_are_an_error_naming_both(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"rt/a\.py:3 and rt/b\.py:3"):
        runtime(tmp_path, a="EPS = 1\n", b="EPS = 2\n")


def test_a_module_without_a_place_in_the_order_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"rt/b\.py has no place"):
        Runtime.read(package(tmp_path, a="", b=""), ("a",))


def test_an_import_of_what_a_module_lacks_is_an_error(tmp_path: Path) -> None:
    rt = runtime(
        tmp_path, a="from rt.b import gone\n\ndef f():\n    return gone\n", b="X = 1\n"
    )
    with pytest.raises(BundleError, match=r"rt/a\.py:3: rt\.b defines no gone"):
        rt.cut(["f"])


def test_one_name_for_two_imports_is_an_error(tmp_path: Path) -> None:
    rt = runtime(
        tmp_path,
        a="from math import log\n\ndef f():\n    return log(1)\n",
        b="from cmath import log\n\ndef g():\n    return log(1)\n",
    )
    with pytest.raises(BundleError, match=r"rt/b\.py:3 and rt/a\.py:3"):
        rt.cut(["f", "g"])


def test_only_needed_imports_come_along(tmp_path: Path) -> None:
    rt = runtime(
        tmp_path,
        a="""
        import math
        import os
        import os.path

        def f(p):
            return os.path.join(p)
        """,
    )
    assert list(rt.cut(["f"]).imports) == ["os"]
    assert len(rt.cut(["f"]).imports["os"]) == 2


def test_a_lone_carriage_return_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"rt/a\.py:2: a carriage return"):
        Runtime.read(package(tmp_path, a="X = 1\n# a\rY = 2\n"), ("a",))
