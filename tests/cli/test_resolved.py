"""A resolved spec reads back as the same spec."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from carl_bundle.cli.resolved import to_yaml
from carl_bundle.spec.yaml import parse

texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.sampled_from(
        ["no", "1e5", "null", "~", "1_0", "0x1F", "2020-01-01", "=", "- a"]
    ),
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(texts, values, min_size=1, max_size=4))
def test_what_is_written_is_read_back(document: dict[str, Any]) -> None:
    assert parse(to_yaml(document), "test") == document


def test_an_empty_document() -> None:
    assert parse(to_yaml({}), "test") == {}
