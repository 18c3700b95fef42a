"""Rows that are read while the model trains."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from carl_runtime_min.errors import UsageError
from carl_runtime_min.streaming import (
    file_stream,
    hub_stream,
    mixed_streams,
    streamed,
)
from tests import tiny

CHAT = tiny.tokenizer()


def source(path: Path | str, **given: Any) -> dict[str, Any]:
    empty = dict.fromkeys(("limit", "system_prompt"))
    common = {"columns": {}, "longest": 64, "too_long": "truncate", "endless": True}
    return {"id": str(path), **empty, **common, **given}


def opened(path: Path, seed: int = 0, **given: Any) -> Any:
    told = source(path, **given)
    return streamed(file_stream(told), told, CHAT, seed)


def questions(rows: Any, count: int) -> list[str]:
    return [row["prompt"][-1]["content"] for row in islice(rows, count)]


def numbered(path: Path, count: int, **more: Any) -> Path:
    rows = [{"prompt": f"q{i}", "answer": "a", **more} for i in range(count)]
    return tiny.write_jsonl(path, rows)


def test_rows_are_shaped_shuffled_and_start_over(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.jsonl", 20)
    first, *_ = opened(path, system_prompt="be terse").take(1)
    assert first["prompt"][0] == {"role": "system", "content": "be terse"}
    assert first["completion"] == [{"role": "assistant", "content": "a"}]
    found = questions(opened(path), 60)
    passes = [found[start : start + 20] for start in (0, 20, 40)]
    assert all(sorted(one) == sorted(f"q{i}" for i in range(20)) for one in passes)
    assert passes[0] != sorted(passes[0], key=lambda text: int(text[1:]))
    assert found == questions(opened(path), 60)
    assert found != questions(opened(path, seed=1), 60)


def test_rows_to_evaluate_come_once_and_in_order(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.jsonl", 20)
    assert questions(opened(path, endless=False, limit=4), 99) == [
        "q0",
        "q1",
        "q2",
        "q3",
    ]


def test_parquet_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    Dataset.from_list([{"prompt": "p", "answer": "1"}] * 500).to_parquet(path)
    assert questions(opened(path), 2) == ["p", "p"]


def test_long_rows_are_dropped_as_they_come(tmp_path: Path) -> None:
    rows = [{"prompt": "x" * n, "answer": "a"} for n in (1, 300, 2)]
    path = tiny.write_jsonl(tmp_path / "a.jsonl", rows)
    assert set(questions(opened(path, too_long="drop"), 4)) == {"x", "xx"}
    assert "x" * 300 in questions(opened(path), 3)
    with pytest.raises(UsageError, match="no row fits"):
        opened(path, too_long="drop", longest=1)


def test_what_the_first_row_tells_is_refused_at_once(tmp_path: Path) -> None:
    path = tiny.write_jsonl(tmp_path / "a.jsonl", [{"text": "x"}])
    with pytest.raises(UsageError, match=r"a\.jsonl: no column 'prompt'") as refused:
        opened(path)
    assert "text" in refused.value.remedy
    path = tiny.write_jsonl(tmp_path / "b.jsonl", [{"prompt": 5, "answer": "a"}])
    with pytest.raises(UsageError, match=r"b\.jsonl, row 1: a prompt is 5"):
        opened(path)
    path.write_text("")
    with pytest.raises(UsageError, match=r"b\.jsonl: ."):
        opened(path)
    path.write_text("no JSON")
    with pytest.raises(UsageError, match=r"b\.jsonl: .*JSON"):
        opened(path)


def test_a_later_row_is_named_when_it_is_read(tmp_path: Path) -> None:
    rows = [{"prompt": "x", "answer": "a"}] * 4 + [{"prompt": None, "answer": "a"}]
    told = opened(tiny.write_jsonl(tmp_path / "a.jsonl", rows), endless=False)
    with pytest.raises(UsageError, match=r"a\.jsonl, row 5: a prompt is None"):
        list(told)


def test_streams_mix_by_weight(tmp_path: Path) -> None:
    parts = [
        opened(
            tiny.write_jsonl(tmp_path / f"{n}.jsonl", [{"prompt": n, "answer": "a"}])
        )
        for n in "ab"
    ]
    weights = [{"weight": 1.0}, {"weight": 3.0}]
    found = questions(mixed_streams(parts, weights, 0), 400)
    assert 240 < found.count("b") < 360
    assert mixed_streams(parts[:1], weights[:1], 0) is parts[0]


def test_hub_rows_are_streamed_from_the_pinned_revision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import datasets

    asked: dict[str, Any] = {}

    def load_dataset(*names: Any, **options: Any) -> str:
        asked.update(options, names=names)
        return "rows"

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    given = {"id": "org/set", "config": None, "split": "train", "revision": "abc"}
    assert hub_stream(given) == "rows"
    assert asked == {
        "names": ("org/set", None),
        "split": "train",
        "revision": "abc",
        "streaming": True,
    }
