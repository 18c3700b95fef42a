"""Click rewards: which point counts, in which units, and what a near miss is worth."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carl_runtime_min.click_rewards import (
    click_distance_reward,
    click_inside_reward,
    coordinate_format_reward,
)
from carl_runtime_min.errors import UsageError

PIXELS = {"width": None, "height": None, "scale": None}
BOX = [10, 20, 30, 60]  # its centre is 20, 40
MAKERS = {
    "inside": click_inside_reward,
    "distance": click_distance_reward,
    "format": coordinate_format_reward,
}


def score(which: str, completion: Any, bbox: Any = BOX, **given: Any) -> Any:
    options = {name: given.pop(name, None) for name in PIXELS}
    columns = {name: [value] for name, value in {"bbox": bbox, **given}.items()}
    batch = {"prompts": ["?"], "completions": [completion], **columns}
    return MAKERS[which](options)(completion_ids=[[1]], **batch)[0]


@pytest.mark.parametrize(
    "text",
    [
        "20,40",
        "(20, 40)",
        "[20 , 40]",
        "click(x=20, y=40)",
        '{"x": 20, "y": 40}',
        '<point x="20" y="40">it</point>',
        "<click>20.0,40.</click>",
        "first 1,1, no: 20,40",
        "from [1, 2, 20, 40]",
        "<think>900,900</think>20,40",
        "<think>20,40</think>Now 20,40",
        "1.5.7,9 at 20,40",
    ],
)
def test_the_last_point_counts(text: str) -> None:
    chat = [{"role": "assistant", "content": text}]
    for completion in (text, chat):
        assert score("inside", completion) == 1
        assert score("distance", completion) == 1


@pytest.mark.parametrize(
    "text", ["", "hi", "20", "20 40", "x20y40", "20;40", "<think>20,40</think>", "a,b"]
)
def test_no_point_earns_nothing(text: str) -> None:
    assert [score(which, text) for which in MAKERS] == [0, 0, 0]


@pytest.mark.parametrize(
    ("text", "inside", "distance"),
    [
        ("20,40", 1, 1),
        ("10,20", 1, 1 - math.hypot(10, 20) / 1000),  # the edge is inside
        ("30,70", 0.5 * 0.99, 1 - math.hypot(10, 30) / 1000),
        ("-70,40", 0.5 * 0.92, 0.91),
        ("-.5,40", 0.5 * 0.9895, 0.9795),
        ("2000,40", 0, 0),
        ("1" * 400 + ",40", 0, 0),
    ],
)
def test_a_miss_is_worth_less_the_farther_it_is(
    text: str, inside: float, distance: float
) -> None:
    assert score("inside", text) == pytest.approx(inside)
    assert score("distance", text) == pytest.approx(distance)
    assert score("inside", text, bbox=[30, 60, 10, 20]) == pytest.approx(inside)


def test_distance_is_measured_in_diagonals_where_the_size_is_known() -> None:
    for size in ({"width": 30, "height": 40}, {"width": "30", "height": 40.0}):
        assert score("distance", "23,44", **size) == pytest.approx(0.9)
        assert score("inside", "33,64", **size) == pytest.approx(0.45)
    for size in ({"width": 0, "height": 40}, {"width": -3, "height": "x"}):
        assert score("distance", "23,44", **size) == pytest.approx(0.995)


@pytest.mark.parametrize(("scale", "text"), [(1, "0.2, .1"), (1000, "200, 100")])
def test_normalised_points_are_scaled_to_the_image(scale: int, text: str) -> None:
    size = {"width": 100, "height": 400}
    assert score("distance", text, scale=scale, **size) == 1
    assert score("distance", text, scale=scale) is None


def test_the_size_of_the_spec_wins_over_that_of_the_row() -> None:
    reward = click_distance_reward({"width": 100, "height": 400, "scale": 1})
    columns = {"bbox": [BOX], "width": [7], "height": [7]}
    given = {"prompts": ["?"], "completions": [".2,.1"], "completion_ids": [[1]]}
    assert reward(**given, **columns) == [1]


@pytest.mark.parametrize(
    "bbox", [None, [], [1, 2, 3], [1, 2, 3, None], [1, 2, 3, math.nan], "1,2,3,4", {}]
)
def test_without_a_box_there_is_no_score(bbox: Any) -> None:
    assert score("inside", "1,1", bbox=bbox) is None
    assert score("distance", "1,1", bbox=bbox) is None
    assert score("format", "1,1", bbox=bbox) == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("(1, 2)", 1),
        ('{"x": 1, "y": 2}', 1),
        ("I would click at 1,2", 0.6),
        ("1,2 or 3,4", 0.6),
        ("<think>It is left of 3,4, I think</think>\n\n1,2", 1),
    ],
)
def test_the_format_is_one_point_and_little_else(text: str, value: float) -> None:
    assert score("format", text) == value


def test_a_missing_column_is_named() -> None:
    batch = {"prompts": ["?"], "completions": ["1,1"], "completion_ids": [[1]]}
    for which in ("inside", "distance"):
        with pytest.raises(UsageError, match="no column 'bbox'"):
            MAKERS[which](PIXELS)(**batch)
    assert MAKERS["format"](PIXELS)(**batch) == [1]


@pytest.mark.parametrize(
    "text", ["1" * 100_000, "1," + " " * 100_000, "1." * 50_000, "1 " * 50_000, "-" * 9]
)
def test_hard_texts_are_scored(text: str) -> None:
    """In time that grows with their length; with its square it would be minutes."""
    for which in MAKERS:
        assert 0 <= score(which, text) <= 1


NUMBERS = (
    st.integers() | st.floats() | st.sampled_from([10**400, 1e308, -1e308, 5e-324])
)
POINTS = st.tuples(NUMBERS, NUMBERS).map(lambda p: f"{p[0]},{p[1]:}")
TEXTS = st.lists(st.text(max_size=9) | POINTS | st.sampled_from([", y=", "٣,٤"]))
VALUES = NUMBERS | st.none() | st.text(max_size=3) | st.lists(st.none())


@given(
    TEXTS.map("".join),
    st.lists(NUMBERS, min_size=4, max_size=4) | st.lists(VALUES) | VALUES,
    st.tuples(VALUES, VALUES),
    st.sampled_from([None, 1, 1000]),
)
def test_any_text_and_any_row_have_a_score(
    text: str, bbox: Any, size: tuple[Any, Any], scale: Any
) -> None:
    columns = {"bbox": [bbox], "width": [size[0]], "height": [size[1]]}
    batch = {"prompts": ["?"], "completions": [text], "completion_ids": [[1]]}
    for maker in MAKERS.values():
        found = maker({**PIXELS, "scale": scale})(**batch, **columns)[0]
        assert found is None or (math.isfinite(found) and 0 <= found <= 1)
