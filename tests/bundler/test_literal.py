"""Data enters a script as a literal that black leaves alone and Python reads back."""

from __future__ import annotations

import ast
from typing import Any

import black
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carl_bundle.bundler.checks import same
from carl_bundle.bundler.literal import MAX_DEPTH, py_literal
from carl_bundle.errors import BundleError

hostile = st.sampled_from(
    "\"'\\\n\r\t\x00\x0b\x0c\x85\u2028\u202e#{}% /\ud800é\U0001f600"
)
texts = st.one_of(
    st.text(st.one_of(st.characters(), hostile)),
    st.text(st.sampled_from("\"'\\ a")),
    st.text(st.sampled_from("ab "), min_size=60, max_size=200),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(texts, inner, max_size=4),
    max_leaves=15,
)


@given(st.dictionaries(texts, values, max_size=5))
def test_black_leaves_it_and_it_evaluates_back(value: dict[str, Any]) -> None:
    source = f"CONFIG = {py_literal(value)}\n"
    source.encode("utf-8")
    assert same(ast.literal_eval(py_literal(value)), value)
    assert black.format_str(source, mode=black.Mode()) == source


@given(texts)
def test_a_string_is_one_line_of_visible_characters(text: str) -> None:
    assert py_literal(text).isprintable()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "True"),
        (1, "1"),
        (-0.0, "-0.0"),
        (1e16, "1e16"),
        (1e-5, "1e-05"),
        (2**70, str(2**70)),
        ("it's", '"it\'s"'),
        ('say "so"', "'say \"so\"'"),
        ("# /// script\n", '"# /// script\\n"'),
        ({"a": [], "b": {}}, '{\n    "a": [],\n    "b": {},\n}'),
    ],
)
def test_the_text_of_a_literal(value: Any, text: str) -> None:
    assert py_literal(value) == text


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    "value", [(1,), {1}, b"x", object(), Text("x"), 1j, {1: 2}, [{"a": (1,)}]]
)
def test_other_types_and_subclasses_are_refused(value: Any) -> None:
    with pytest.raises(BundleError, match="CONFIG"):
        py_literal(value)


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), 10**5000], ids=["nan", "inf", "long"]
)
def test_numbers_without_a_literal_are_refused(value: Any) -> None:
    with pytest.raises(BundleError, match=r"CONFIG\['rate'\]"):
        py_literal({"rate": value})


def test_nesting_has_a_limit() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(BundleError, match=f"deeper than {MAX_DEPTH}"):
        py_literal(value)
