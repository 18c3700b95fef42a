"""Rows from files: loaded, renamed, shaped, or refused with a way on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from carl_runtime_min.data import file_rows, fitting, hub_rows, prepared, sft_rows
from carl_runtime_min.errors import UsageError
from tests import tiny

CHAT = tiny.tokenizer()
PLAIN = tiny.tokenizer(template=None)
ROWS = [{"prompt": "1+1?", "answer": "2"}, {"prompt": "2+2?", "answer": "4"}]


def source(path: Path | str, **given: Any) -> dict[str, Any]:
    empty: dict[str, Any] = {
        "config": None,
        "split": "train",
        "revision": None,
        "columns": {},
    }
    empty |= {"skip_last": 0, "take_last": 0}
    return {"id": str(path), "limit": None, "system_prompt": None, **empty, **given}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def plain(rows: Any) -> list[dict[str, Any]]:
    return [dict(row) for row in rows]


def test_jsonl_json_and_parquet_hold_the_same_rows(tmp_path: Path) -> None:
    lines = tiny.write_jsonl(tmp_path / "a.jsonl", ROWS)
    whole = tmp_path / "a.json"
    whole.write_text(json.dumps(ROWS))
    columns = tmp_path / "a.parquet"
    Dataset.from_list(ROWS).to_parquet(columns)
    for path in (lines, whole, columns):
        assert plain(file_rows(source(path))) == ROWS


@pytest.mark.parametrize("name", ["a b.jsonl", "a[1].jsonl", "ä*.jsonl", "a?.jsonl"])
def test_a_file_name_is_not_a_pattern(tmp_path: Path, name: str) -> None:
    path = tiny.write_jsonl(tmp_path / name, ROWS)
    assert plain(file_rows(source(path))) == ROWS


def test_text_survives_as_it_is(tmp_path: Path) -> None:
    text = "ä\u2028\u0000\r\n\"'\\ {{ x }} \U0001f600"
    path = tiny.write_jsonl(tmp_path / "a.jsonl", [{"prompt": text, "answer": "1"}])
    assert plain(file_rows(source(path)))[0]["prompt"] == text


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tiny.write_jsonl(tmp_path / "a.jsonl", ROWS)
    file_rows(source(path))
    tiny.write_jsonl(path, ROWS[:1])
    assert plain(file_rows(source(path))) == ROWS[:1]


def test_a_missing_file_is_named_with_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no file nowhere/x\.jsonl") as refused:
        file_rows(source("nowhere/x.jsonl"))
    assert str(Path.cwd()) in refused.value.remedy


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("torn.jsonl", '{"prompt": "a", "answer": "1"}\n{"prompt": "b", "ans'),
        ("words.jsonl", "this is no JSON\n"),
        ("mixed.jsonl", '{"prompt": "a"}\n{"prompt": {"x": 1}}\n'),
        ("blank.jsonl", "\n\n"),
        ("none.json", "[]"),
        ("list.jsonl", "[1, 2]\n"),
        ("empty.jsonl", ""),
        ("torn.json", '[{"prompt": "a"'),
        ("torn.parquet", "PAR1 this is not"),
        ("empty.parquet", ""),
    ],
)
def test_a_broken_file_is_refused_by_name(
    tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content)
    told = source(tmp_path / name)
    with pytest.raises(UsageError, match=name) as refused:
        prepared(file_rows(told), told, ["prompt"], CHAT)
    assert refused.value.remedy
    assert refused.value.exit_code == 2


def test_plain_prompts_become_conversations_for_a_chat_model() -> None:
    rows = prepared(Dataset.from_list(ROWS), source("x"), ["prompt"], CHAT)
    assert plain(rows)[0] == {"prompt": [user("1+1?")], "answer": "2"}
    told = source("x", system_prompt="be terse")
    rows = prepared(Dataset.from_list(ROWS), told, ["prompt"], CHAT)
    system = {"role": "system", "content": "be terse"}
    assert plain(rows)[0]["prompt"] == [system, user("1+1?")]


def test_without_a_chat_template_text_stays_text() -> None:
    rows = prepared(Dataset.from_list(ROWS), source("x"), ["prompt"], PLAIN)
    assert plain(rows) == ROWS


def test_conversations_stay_and_lose_their_last_answer() -> None:
    turns = [user("a"), assistant("b"), user("c"), assistant("d")]
    data = Dataset.from_list([{"prompt": turns}, {"prompt": turns[:3]}])
    rows = prepared(data, source("x"), ["prompt"], CHAT)
    assert plain(rows) == [{"prompt": turns[:3]}, {"prompt": turns[:3]}]


def test_columns_get_our_names_and_the_others_stay() -> None:
    data = Dataset.from_list([{"question": "q", "gold": "g", "level": 3}])
    mapped = source("x", columns={"prompt": "question", "answer": "gold"})
    rows = prepared(data, mapped, ["prompt"], PLAIN)
    assert plain(rows) == [{"prompt": "q", "answer": "g", "level": 3}]


def test_a_mapping_wins_over_a_column_that_has_our_name_already() -> None:
    data = Dataset.from_list([{"prompt": "old", "question": "new", "answer": "1"}])
    mapped = source("x", columns={"prompt": "question"})
    assert plain(prepared(data, mapped, ["prompt"], PLAIN))[0]["prompt"] == "new"


def test_columns_may_change_places() -> None:
    data = Dataset.from_list([{"prompt": "a", "answer": "q"}])
    mapped = source("x", columns={"prompt": "answer", "answer": "prompt"})
    assert plain(prepared(data, mapped, ["prompt"], PLAIN)) == [
        {"prompt": "q", "answer": "a"}
    ]


@pytest.mark.parametrize(
    ("columns", "missing"),
    [({}, "prompt"), ({"prompt": "problem"}, "problem")],
)
def test_a_missing_column_is_named_beside_those_there_are(
    columns: dict[str, str], missing: str
) -> None:
    data = Dataset.from_list([{"question": "q", "gold": "g"}])
    with pytest.raises(UsageError, match=f"rows.jsonl: no column '{missing}'") as no:
        prepared(data, source("rows.jsonl", columns=columns), ["prompt"], CHAT)
    assert "data.columns" in no.value.remedy
    assert "question" in no.value.remedy


def test_a_file_without_rows_is_refused() -> None:
    data = Dataset.from_dict({"prompt": []})
    with pytest.raises(UsageError, match="rows"):
        prepared(data, source("x"), ["prompt"], CHAT)


@pytest.mark.parametrize(("limit", "count"), [(None, 5), (2, 2), (99, 5)])
def test_a_limit_takes_the_first_rows(limit: int | None, count: int) -> None:
    data = Dataset.from_list([{"prompt": str(i)} for i in range(5)])
    rows = prepared(data, source("x", limit=limit), ["prompt"], PLAIN)
    assert rows["prompt"][:] == [str(i) for i in range(count)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "01234567"),
        ({"skip_last": 3}, "01234"),
        ({"take_last": 3}, "567"),
        ({"take_last": 3, "limit": 2}, "56"),
        ({"skip_last": 3, "limit": 4}, "0123"),
        ({"skip_last": 3, "limit": 99}, "01234"),
        ({"take_last": 99}, "01234567"),
    ],
)
def test_held_out_rows_are_the_last_ones(given: dict[str, int], expected: str) -> None:
    data = Dataset.from_list([{"prompt": str(i)} for i in range(8)])
    rows = prepared(data, source("x", **given), ["prompt"], PLAIN)
    assert "".join(rows["prompt"][:]) == expected


def test_a_file_with_nothing_but_held_out_rows_is_refused() -> None:
    data = Dataset.from_list([{"prompt": "a"}] * 3)
    with pytest.raises(UsageError, match="too few rows"):
        prepared(data, source("x", skip_last=3), ["prompt"], PLAIN)


@pytest.mark.parametrize("words", [CHAT, PLAIN])
def test_prompts_that_do_not_fit_are_left_out_and_counted(
    words: Any, capsys: Any
) -> None:
    data = Dataset.from_list([{"prompt": "x" * n} for n in (1, 5, 6, 30)])
    rows = prepared(data, source("x"), ["prompt"], words)
    if words is CHAT:
        ids = CHAT.apply_chat_template(rows[1]["prompt"], add_generation_prompt=True)
    else:
        ids = PLAIN("xxxxx")
    longest = len(ids["input_ids"])
    assert len(fitting(rows, words, longest)) == 2
    assert f"left out 2 prompts over {longest} tokens" in capsys.readouterr().out
    assert len(fitting(rows, words, 1000)) == 4
    assert capsys.readouterr().out == ""
    with pytest.raises(UsageError, match="prompt"):
        fitting(rows, words, 0)


TURNS = [user("q"), assistant("a")]


@pytest.mark.parametrize(
    ("row", "columns", "expected"),
    [
        ({"messages": TURNS, "id": 1}, {}, {"messages": TURNS}),
        ({"chat": TURNS, "id": 1}, {"messages": "chat"}, {"messages": TURNS}),
        (
            {"prompt": "q", "completion": "a", "answer": "x"},
            {},
            {"prompt": [user("q")], "completion": [assistant("a")]},
        ),
        (
            {"prompt": "q", "answer": "a"},
            {},
            {"prompt": [user("q")], "completion": [assistant("a")]},
        ),
        (
            {"question": "q", "gold": "a"},
            {"prompt": "question", "answer": "gold"},
            {"prompt": [user("q")], "completion": [assistant("a")]},
        ),
        (
            {"question": "q", "gold": "a", "answer": "x"},
            {"prompt": "question", "completion": "gold"},
            {"prompt": [user("q")], "completion": [assistant("a")]},
        ),
        (
            {"prompt": [user("q")], "completion": [assistant("a")]},
            {},
            {"prompt": [user("q")], "completion": [assistant("a")]},
        ),
        (
            {"prompt": "q", "answer": 7},
            {},
            {"prompt": [user("q")], "completion": [assistant("7")]},
        ),
        (
            {"messages": TURNS, "question": "q", "gold": "a"},
            {"prompt": "question", "completion": "gold"},
            {"prompt": [user("q")], "completion": [assistant("a")]},
        ),
    ],
)
def test_sft_takes_conversations_or_prompts_with_completions(
    row: dict[str, Any], columns: dict[str, str], expected: dict[str, Any]
) -> None:
    rows = sft_rows(Dataset.from_list([row]), source("x", columns=columns), CHAT)
    assert plain(rows) == [expected]


def test_a_system_prompt_opens_conversations_that_have_none() -> None:
    told = source("x", system_prompt="be terse")
    system = {"role": "system", "content": "be terse"}
    rows = sft_rows(Dataset.from_list([{"messages": TURNS}]), told, CHAT)
    assert plain(rows) == [{"messages": [system, *TURNS]}]
    theirs = [{"role": "system", "content": "theirs"}, *TURNS]
    rows = sft_rows(Dataset.from_list([{"messages": theirs}]), told, CHAT)
    assert plain(rows) == [{"messages": theirs}]


def test_sft_says_what_it_lacks() -> None:
    data = Dataset.from_list([{"text": "x"}])
    with pytest.raises(UsageError, match="no column 'prompt'"):
        sft_rows(data, source("x"), CHAT)
    data = Dataset.from_list([{"prompt": "x"}])
    with pytest.raises(UsageError, match="no column 'completion'"):
        sft_rows(data, source("x"), CHAT)


def test_conversations_need_a_chat_template() -> None:
    for row in ({"messages": TURNS}, {"prompt": TURNS[:1], "completion": TURNS[1:]}):
        with pytest.raises(UsageError, match="chat template"):
            sft_rows(Dataset.from_list([row]), source("x"), PLAIN)
    data = Dataset.from_list([{"prompt": TURNS[:1]}])
    with pytest.raises(UsageError, match="chat template"):
        prepared(data, source("x"), ["prompt"], PLAIN)


@pytest.mark.parametrize("nothing", [None, []])
def test_a_row_without_text_is_refused(nothing: Any) -> None:
    data = Dataset.from_dict({"prompt": [TURNS[:1], nothing]})
    with pytest.raises(UsageError, match=r"rows\.jsonl: a prompt is"):
        prepared(data, source("rows.jsonl"), ["prompt"], CHAT)


def test_hub_rows_come_from_the_pinned_revision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import datasets

    asked: dict[str, Any] = {}

    def load_dataset(*names: Any, **options: Any) -> str:
        asked.update(options, names=names)
        return "rows"

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    chosen = source("org/set", config="main", split="train[:9]", revision="abc")
    assert hub_rows(chosen) == "rows"
    assert asked == {
        "names": ("org/set", "main"),
        "split": "train[:9]",
        "revision": "abc",
    }
