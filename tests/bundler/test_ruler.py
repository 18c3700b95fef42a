"""Sections are found by their rulers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from carl_bundle.bundler.ruler import is_ruler, ruler, sections_of, under_ruler

texts = st.text(st.sampled_from("ab\x0c\u2028 #-\n"), min_size=1).map(
    lambda text: f"x{text}x"
)


@given(st.lists(texts, max_size=5), texts)
def test_what_was_divided_is_found_again(texts: list[str], header: str) -> None:
    parts = [header, *(under_ruler(f"m{i}.py", t) for i, t in enumerate(texts))]
    found = sections_of("\n\n\n".join(parts) + "\n")
    assert [section.text for section in found] == [header, *texts]
    assert all(section.is_intact for section in found)
    assert [section.name for section in found[1:]] == [
        f"m{i}.py" for i in range(len(texts))
    ]


def test_an_edit_breaks_the_digest() -> None:
    script = "head\n\n\n" + under_ruler("a.py", "x = 1") + "\n"
    assert sections_of(script)[1].is_intact
    assert not sections_of(script.replace("x = 1", "x = 2"))[1].is_intact
    assert sections_of(script)[1].line == 5


def test_a_ruler_is_one_line_of_the_usual_width() -> None:
    assert len(ruler("a.py", "x")) == 88
    assert is_ruler(ruler("a" * 200, "x"))
