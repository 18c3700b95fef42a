"""What a row of the table says, and which bound decides."""

from __future__ import annotations

import pytest

from benchmarks.measure import Row, by_turns, median_bound, ratio, report, table


@pytest.mark.parametrize(
    ("row", "status"),
    [
        (Row("a", 1.0, 1.0), "met"),
        (Row("a", 1.1, 1.0), "MISSED"),
        (Row("a", 1.0, 1.0, least=True), "met"),
        (Row("a", 0.9, 1.0, least=True), "MISSED"),
        (Row("a", 0.9, 1.0, bound=1.01), "MISSED"),
        (Row("a", 1.1, 1.0, bound=0.99, least=True), "MISSED"),
        (Row("a", float("nan"), 1.0), "MISSED"),
        (Row("a", None, 1.0), "not measured"),
        (Row("a", 5.0), ""),
    ],
)
def test_the_bound_decides_where_there_is_one(row: Row, status: str) -> None:
    assert row.status == status
    assert report([row]) == (status == "MISSED")


def test_the_bound_of_a_median_lies_on_the_side_of_the_limit() -> None:
    ratios = [1 + i / 100 for i in range(41)]
    low, high = median_bound(ratios, least=True), median_bound(ratios)
    assert 1.1 < low < 1.2 < high < 1.3
    assert median_bound([1.5] * 30) == 1.5


def test_a_ratio_compares_what_was_timed_in_the_same_round() -> None:
    row = ratio("a", [2.0, 4.0, 60.0], [1.0, 2.0, 30.0], control=[1.1, 2.2, 33.0])
    assert row.measured == 2.0
    assert row.control == pytest.approx(1.1)


def test_each_round_times_every_candidate_once_in_changing_order() -> None:
    calls: list[str] = []
    ticks = iter(range(1000))
    candidates = {name: lambda name=name: calls.append(name) for name in "abc"}
    seconds = by_turns(candidates, 8, lambda: float(next(ticks)))
    assert seconds == {name: [1.0] * 8 for name in "abc"}
    rounds = {tuple(calls[i : i + 3]) for i in range(0, len(calls), 3)}
    assert {frozenset(one) for one in rounds} == {frozenset("abc")}
    assert len(rounds) > 2


def test_the_table_is_one_of_markdown() -> None:
    lines = table([Row("a long name", 1.0, 2.0, form=".1f"), Row("b", None)]).split(
        "\n"
    )
    assert len({len(line) for line in lines}) == 1
    assert lines[2].split("|")[1:-1] == [
        *(" a long name ", "      1.0 ", "      ", "         ", " ≤ 2.0 "),
        "          met ",
    ]
