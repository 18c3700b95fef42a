"""Rows of several data sets in one, by weight."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from datasets import Dataset

from carl_runtime_min.errors import UsageError
from carl_runtime_min.mixture import mixed


def rows(name: str, count: int, **more: Any) -> Any:
    return Dataset.from_list([{"prompt": f"{name}{i}", **more} for i in range(count)])


def sources(**weights: float) -> list[dict[str, Any]]:
    return [{"data": {"id": name}, "weight": x} for name, x in weights.items()]


def prompts(mixture: Any) -> list[str]:
    return list(mixture["prompt"])


def test_rows_are_drawn_by_weight_until_each_was_used(capsys: Any) -> None:
    parts = [rows("a", 50), rows("b", 900)]
    found = prompts(mixed(parts, sources(a=1, b=3), seed=1))
    counts = Counter(text[0] for text in found)
    assert counts["b"] / counts["a"] == pytest.approx(3, rel=0.2)
    assert set(found) == {*prompts(parts[0]), *prompts(parts[1])}
    told = (
        f"{len(found)} rows mixed: a {counts['a']} (has 50), b {counts['b']} (has 900)"
    )
    assert told in capsys.readouterr().out


def test_a_source_that_runs_out_starts_over_and_keeps_its_order() -> None:
    found = prompts(mixed([rows("a", 3), rows("b", 40)], sources(a=1, b=1), seed=0))
    own = [text for text in found if text[0] == "a"]
    assert own == [f"a{i % 3}" for i in range(len(own))]
    assert len(own) > 20
    others = [text for text in found if text[0] == "b"]
    assert others[:40] == [f"b{i}" for i in range(40)]


def test_the_seed_decides_the_order() -> None:
    def draw(seed: int) -> list[str]:
        return prompts(mixed([rows("a", 20), rows("b", 20)], sources(a=1, b=1), seed))

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


def test_one_rank_tells_the_counts(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("RANK", "1")
    mixed([rows("a", 2), rows("b", 2)], sources(a=1, b=1), seed=0)
    assert capsys.readouterr().out == ""


def test_a_column_that_one_source_lacks_is_empty_there() -> None:
    parts = [rows("a", 2, answer="1", carl="x"), rows("b", 2)]
    found = mixed(parts, sources(a=1, b=1), seed=0)
    assert {(r["prompt"][0], r["answer"]) for r in found} == {("a", "1"), ("b", None)}
    assert set(found.column_names) == {"prompt", "answer", "carl"}


def test_conversations_may_have_other_keys() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    plain = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]
    called = [plain[0], {"role": "assistant", "content": "", "tool_calls": [call]}]
    parts = [Dataset.from_list([{"messages": talk}]) for talk in (plain, called)]
    found = mixed(parts, sources(a=1, b=1), seed=0)
    talks = [row["messages"] for row in found]
    assert plain in talks
    assert any(talk[1].get("tool_calls") == [call] for talk in talks)


def test_sources_that_do_not_go_together_are_refused_by_name() -> None:
    parts = [rows("a", 2, answer="1"), rows("b", 2, answer=1)]
    with pytest.raises(UsageError, match=r"'answer' is .* in a, .* in b") as refused:
        mixed(parts, sources(a=1, b=1), seed=0)
    assert "one type" in refused.value.remedy
    turns = [{"role": "user", "content": "x"}]
    parts = [rows("a", 2), Dataset.from_list([{"messages": turns}])]
    with pytest.raises(UsageError, match="two forms: a, b") as refused:
        mixed(parts, sources(a=1, b=1), seed=0)
    assert "messages" in refused.value.remedy


def test_one_source_is_itself() -> None:
    part = rows("a", 5)
    assert prompts(mixed([part], sources(a=2), seed=0)) == prompts(part)
