"""Rows from files: loaded, renamed, shaped, or refused with a way on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from carl_bundle import TrainSpec
from carl_bundle.recipes import plan
from carl_runtime_min.data import (
    file_rows,
    fitting,
    hub_rows,
    preference_rows,
    prepared,
    row_length,
    sft_rows,
)
from carl_runtime_min.dryrun import show_row
from carl_runtime_min.errors import UsageError
from tests import tiny, trainers

CHAT = tiny.tokenizer()
PLAIN = tiny.tokenizer(template=None)
ROWS = [{"prompt": "1+1?", "answer": "2"}, {"prompt": "2+2?", "answer": "4"}]


def source(path: Path | str, **given: Any) -> dict[str, Any]:
    empty = dict.fromkeys(("config", "revision", "limit", "system_prompt"))
    common = {"split": "train", "columns": {"prompt": "prompt"}, "part": [None, None]}
    return {"id": str(path), **empty, **common, **given}


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
    with pytest.raises(UsageError, match=r"nowhere/x\.jsonl") as refused:
        file_rows(source("nowhere/x.jsonl"))
    assert str(Path.cwd() / "nowhere" / "x.jsonl") in str(refused.value)
    assert "there" in refused.value.remedy


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("latin.jsonl", '{"prompt": "\xe4"}\n'),
        ("latin.json", '[{"prompt": "\xe4"}]'),
        ("utf-16.jsonl", "\xff\xfe{\0"),
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
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    told = source(tmp_path / name)
    with pytest.raises(UsageError, match=name) as refused:
        prepared(file_rows(told), told, CHAT)
    assert not str(refused.value).endswith(": ")
    assert refused.value.remedy
    assert refused.value.exit_code == 2


def test_plain_prompts_become_conversations_for_a_chat_model() -> None:
    rows = prepared(Dataset.from_list(ROWS), source("x"), CHAT)
    assert plain(rows)[0] == {"prompt": [user("1+1?")], "answer": "2"}
    told = source("x", system_prompt="be terse")
    rows = prepared(Dataset.from_list(ROWS), told, CHAT)
    system = {"role": "system", "content": "be terse"}
    assert plain(rows)[0]["prompt"] == [system, user("1+1?")]


def test_without_a_chat_template_text_stays_text() -> None:
    rows = prepared(Dataset.from_list(ROWS), source("x"), PLAIN)
    assert plain(rows) == ROWS


def test_conversations_stay_and_lose_their_last_answer() -> None:
    turns = [user("a"), assistant("b"), user("c"), assistant("d")]
    data = Dataset.from_list([{"prompt": turns}, {"prompt": turns[:3]}])
    rows = prepared(data, source("x"), CHAT)
    assert plain(rows) == [{"prompt": turns[:3]}, {"prompt": turns[:3]}]


def test_columns_get_our_names_and_the_others_stay() -> None:
    data = Dataset.from_list([{"question": "q", "gold": "g", "level": 3}])
    mapped = source("x", columns={"prompt": "question", "answer": "gold"})
    rows = prepared(data, mapped, PLAIN)
    ours = {"prompt": "q", "answer": "g"}
    assert plain(rows) == [{"question": "q", "gold": "g", "level": 3, **ours}]


def test_a_mapping_wins_over_a_column_that_has_our_name_already() -> None:
    data = Dataset.from_list([{"prompt": "old", "question": "new", "answer": "1"}])
    mapped = source("x", columns={"prompt": "question"})
    assert plain(prepared(data, mapped, PLAIN))[0]["prompt"] == "new"


@pytest.mark.parametrize("name", ["completion", "chosen", "image", "images"])
def test_a_column_that_only_the_trainer_would_read_is_left_out(name: str) -> None:
    data = Dataset.from_list([{"prompt": "a", name: "shots/1.png"}])
    rows = prepared(data, source("x", columns={"prompt": "prompt"}), PLAIN)
    assert plain(rows) == [{"prompt": "a"}]


def test_columns_may_change_places() -> None:
    data = Dataset.from_list([{"prompt": "a", "answer": "q"}])
    mapped = source("x", columns={"prompt": "answer", "answer": "prompt"})
    assert plain(prepared(data, mapped, PLAIN)) == [{"prompt": "q", "answer": "a"}]


@pytest.mark.parametrize(
    ("columns", "missing"),
    [({"prompt": "prompt"}, "prompt"), ({"prompt": "problem"}, "problem")],
)
def test_a_missing_column_is_named_beside_those_there_are(
    columns: dict[str, str], missing: str
) -> None:
    data = Dataset.from_list([{"question": "q", "gold": "g"}])
    with pytest.raises(UsageError, match=f"rows.jsonl: no column '{missing}'") as no:
        prepared(data, source("rows.jsonl", columns=columns), CHAT)
    assert "data.columns" in no.value.remedy
    assert "question" in no.value.remedy


def test_a_file_without_rows_is_refused() -> None:
    data = Dataset.from_dict({"prompt": []})
    with pytest.raises(UsageError, match="rows"):
        prepared(data, source("x"), CHAT)


@pytest.mark.parametrize(("limit", "count"), [(None, 5), (2, 2), (99, 5)])
def test_a_limit_takes_the_first_rows(limit: int | None, count: int) -> None:
    data = Dataset.from_list([{"prompt": str(i)} for i in range(5)])
    rows = prepared(data, source("x", limit=limit), PLAIN)
    assert rows["prompt"][:] == [str(i) for i in range(count)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "01234567"),
        ({"part": [None, -3]}, "01234"),
        ({"part": [-3, None]}, "567"),
        ({"part": [-3, None], "limit": 2}, "56"),
        ({"part": [None, -3], "limit": 4}, "0123"),
        ({"part": [None, -3], "limit": 99}, "01234"),
        ({"part": [-99, None]}, "01234567"),
    ],
)
def test_held_out_rows_are_the_last_ones(given: dict[str, Any], expected: str) -> None:
    data = Dataset.from_list([{"prompt": str(i)} for i in range(8)])
    rows = prepared(data, source("x", **given), PLAIN)
    assert "".join(rows["prompt"][:]) == expected


def test_no_phase_trains_on_rows_that_are_evaluated() -> None:
    rows = {"id": "x.jsonl", "columns": {"prompt": "q"}}
    spec = {"model": {"id": "m/m", "revision": "a" * 40}, "data": rows}
    spec |= {"grpo": {"data": {**rows, "limit": 4}}, "eval": {"items": 3}}
    spec |= {"rewards": [{"name": "exact_answer"}]}
    config = plan(TrainSpec.model_validate(spec)).config
    data = Dataset.from_list([{"q": str(i), "answer": "a"} for i in range(8)])
    found = {"sft": sft_rows(data, config["sft"]["data"], PLAIN)}
    for phase in ("grpo", "eval"):
        found[phase] = prepared(data, config[phase]["data"], PLAIN)
    prompts = {phase: "".join(rows["prompt"]) for phase, rows in found.items()}
    assert prompts == {"sft": "01234", "grpo": "0123", "eval": "567"}


def test_a_file_with_nothing_but_held_out_rows_is_refused() -> None:
    data = Dataset.from_list([{"prompt": "a"}] * 3)
    with pytest.raises(UsageError, match="too few rows"):
        prepared(data, source("x", part=[None, -3]), PLAIN)


@pytest.mark.parametrize("words", [CHAT, PLAIN])
def test_prompts_that_do_not_fit_are_left_out_and_counted(
    words: Any, capsys: Any
) -> None:
    data = Dataset.from_list([{"prompt": "x" * n} for n in (1, 5, 6, 30)])
    rows = prepared(data, source("x"), words)
    if words is CHAT:
        ids = CHAT.apply_chat_template(rows[1]["prompt"], add_generation_prompt=True)
    else:
        ids = PLAIN("xxxxx")
    longest = len(ids["input_ids"])
    limits = {"longest": longest, "too_long": "drop"}
    assert fitting(rows, words, source("x", **limits)).to_list() == rows.to_list()[:2]
    told = f"x: 2 of 4 rows have over {longest} tokens: left out"
    assert told in capsys.readouterr().out
    whole = source("x", longest=1000, too_long="refuse")
    assert len(fitting(rows, words, whole)) == 4
    assert capsys.readouterr().out == ""
    with pytest.raises(UsageError, match="4 of 4 rows have over 0 tokens"):
        fitting(rows, words, source("x", longest=0, too_long="drop"))


def test_long_rows_may_be_cut_by_the_trainer_or_refused(capsys: Any) -> None:
    pairs = [("a", "b", "c"), ("a", "b", "c" * 30), ("a" * 30, "b", "c")]
    rows = Dataset.from_list(
        [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in pairs]
    )
    cut = source("x", longest=5, too_long="truncate")
    assert fitting(rows, PLAIN, cut).to_list() == rows.to_list()
    assert "x: 2 of 3 rows have over 5 tokens: cut" in capsys.readouterr().out
    with pytest.raises(UsageError, match="the first is row 2") as caught:
        fitting(rows, PLAIN, source("x", longest=5, too_long="refuse"))
    assert "max_length" in caught.value.remedy


@pytest.mark.parametrize("kind", ["messages", "answered", "judged"])
def test_the_length_of_a_row_is_what_the_trainer_makes_of_it(kind: str) -> None:
    question, answer = [user("q" * 9)], [assistant("a" * 4)]
    row = {
        "messages": {"messages": question + answer},
        "answered": {"prompt": question, "completion": answer},
        "judged": {"prompt": question, "chosen": answer, "rejected": [assistant("a")]},
    }[kind]
    ids = CHAT.apply_chat_template(question + answer)["input_ids"]
    assert row_length(row, CHAT) == len(ids)


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
    told = source("x", system_prompt="be terse", columns={})
    system = {"role": "system", "content": "be terse"}
    rows = sft_rows(Dataset.from_list([{"messages": TURNS}]), told, CHAT)
    assert plain(rows) == [{"messages": [system, *TURNS]}]
    theirs = [{"role": "system", "content": "theirs"}, *TURNS]
    rows = sft_rows(Dataset.from_list([{"messages": theirs}]), told, CHAT)
    assert plain(rows) == [{"messages": theirs}]


MARKED = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }} {% if m['role'] == 'assistant' "
    "%}{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}{% endfor %}"
)


def test_of_messages_the_answers_alone_can_be_learned(
    tmp_path: Path, capsys: Any
) -> None:
    """What the trainer learns with `assistant_only_loss` is what a dry run shows."""
    words, turns = tiny.tokenizer(MARKED), [*TURNS, user("r"), assistant("b")]
    data = Dataset.from_list([{"messages": turns, "id": 1}])
    rows = sft_rows(data, source("x", columns={}), words)
    given = {"assistant_only_loss": True, "max_length": None}
    trainer = SFTTrainer(
        tiny.model(),
        args=SFTConfig(**trainers.arguments(trainers.run_dir(tmp_path), **given)),
        train_dataset=rows,
        processing_class=words,
    )
    [row] = trainer.train_dataset
    learned = [token for token in row["labels"] if token != -100]
    assert words.decode(learned) == "a<|im_end|>b<|im_end|>"
    show_row(words, rows[0], answers_only=True)
    found = capsys.readouterr().out
    assert re.findall("⟦(.*?)⟧", found) == ["a<|im_end|>", "b<|im_end|>"]
    assert "warning" not in found


def test_sft_says_what_it_lacks() -> None:
    data = Dataset.from_list([{"text": "x"}])
    with pytest.raises(UsageError, match="no column 'prompt'"):
        sft_rows(data, source("x", columns={}), CHAT)
    data = Dataset.from_list([{"prompt": "x"}])
    with pytest.raises(UsageError, match="no column 'completion'"):
        sft_rows(data, source("x", columns={}), CHAT)


def test_conversations_need_a_chat_template() -> None:
    for row in ({"messages": TURNS}, {"prompt": TURNS[:1], "completion": TURNS[1:]}):
        with pytest.raises(UsageError, match="chat template"):
            sft_rows(Dataset.from_list([row]), source("x", columns={}), PLAIN)
    data = Dataset.from_list([{"prompt": TURNS[:1]}])
    with pytest.raises(UsageError, match="chat template"):
        prepared(data, source("x"), PLAIN)


JUDGED = {name: name for name in ("prompt", "completion", "label")}
JUDGED_ROW = {"prompt": "q", "completion": "a", "label": True}


@pytest.mark.parametrize("nothing", [None, []])
def test_a_row_without_text_is_refused(nothing: Any) -> None:
    data = Dataset.from_dict({"prompt": [TURNS[:1], nothing]})
    with pytest.raises(UsageError, match=r"rows\.jsonl, row 2: a prompt is") as refused:
        prepared(data, source("rows.jsonl"), CHAT)
    assert "'prompt'" in refused.value.remedy


def test_a_row_is_counted_from_the_start_of_its_file() -> None:
    rows = Dataset.from_dict({"q": ["a", "b", "c", None]})
    told = source("rows.jsonl", columns={"prompt": "q"}, part=[-2, None])
    with pytest.raises(UsageError, match="row 4: a prompt is None") as refused:
        prepared(rows, told, CHAT)
    assert "'q'" in refused.value.remedy


@pytest.mark.parametrize(
    ("rows", "number"),
    [
        ([JUDGED_ROW, {**JUDGED_ROW, "label": "no"}], 2),
        ([JUDGED_ROW, JUDGED_ROW, {**JUDGED_ROW, "label": None}], 3),
    ],
)
def test_a_wrong_label_is_named_with_its_row(rows: Any, number: int) -> None:
    data = Dataset.from_list(rows, on_mixed_types="use_json")
    told = source("rows.jsonl", columns=JUDGED)
    with pytest.raises(UsageError, match=f"row {number}: a label is"):
        preference_rows(data, told, CHAT)


def tool(name: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {name: {"type": "string"}}}
    inner = {"name": name, "description": "x", "parameters": schema}
    return {"type": "function", "function": inner}


TOOLS = (
    "{% if tools %}{% for t in tools %}[{{ t['function']['name'] }}]{% endfor %}"
    "{% endif %}" + tiny.CHAT_TEMPLATE
)


@pytest.mark.parametrize("form", [list, json.dumps])
def test_the_tools_of_a_row_stand_before_its_turns(
    tmp_path: Path, form: Any, capsys: Any
) -> None:
    """The trainer, the length and the dry run see the same tokens."""
    words = tiny.tokenizer(TOOLS)
    row = {"messages": TURNS, "tools": form([tool("read"), tool("write")])}
    path = tiny.write_jsonl(tmp_path / "a.jsonl", [row])
    told = source(path, columns={})
    rows = sft_rows(file_rows(told), told, words)
    given = trainers.arguments(trainers.run_dir(tmp_path), max_length=None)
    trainer = SFTTrainer(
        tiny.model(),
        args=SFTConfig(**given),
        train_dataset=rows,
        processing_class=words,
    )
    [seen] = trainer.train_dataset
    assert words.decode(seen["input_ids"]).startswith("[read][write]<|im_start|>")
    assert row_length(rows[0], words) == len(seen["input_ids"])
    show_row(words, rows[0])
    assert "[read][write]" in capsys.readouterr().out


def test_tools_that_cannot_be_shown_are_refused() -> None:
    row = {"messages": TURNS, "tools": json.dumps([tool("read")])}
    told = source("rows.jsonl", columns={})
    with pytest.raises(UsageError, match=r"rows\.jsonl: .*shows no 'tools'"):
        sft_rows(Dataset.from_list([row]), told, CHAT)
    torn = Dataset.from_list([row, {**row, "tools": "[{"}])
    with pytest.raises(UsageError, match=r"rows\.jsonl, row 2: tools"):
        sft_rows(torn, told, tiny.tokenizer(TOOLS))


def test_the_tools_of_a_prompt_to_sample_from_are_not_counted() -> None:
    """TRL's GRPO shows none of a row: only the rewards read them."""
    words, prompt = tiny.tokenizer(TOOLS), [user("q")]
    with_tools = {"prompt": prompt, "tools": [tool("read")]}
    assert row_length(with_tools, words) == row_length({"prompt": prompt}, words)


PAIR = {name: name for name in ("prompt", "chosen", "rejected")}
SAID = {
    "prompt": [user("q")],
    "chosen": [assistant("a")],
    "rejected": [assistant("b")],
}
TALKS = {name: [user("q"), *SAID[name]] for name in ("chosen", "rejected")}
LONG = [user("p"), assistant("r"), user("q")]


def preferences(
    row: Any, columns: dict[str, str], words: Any = CHAT, **given: Any
) -> Any:
    told = source("rows.jsonl", columns=columns, **given)
    rows = row if isinstance(row, list) else [row]
    return plain(preference_rows(Dataset.from_list(rows), told, words))


@pytest.mark.parametrize(
    ("row", "columns", "expected"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": "b", "id": 1}, PAIR, SAID),
        (SAID, PAIR, SAID),
        (TALKS, PAIR, SAID),
        ({"prompt": "q", **TALKS}, PAIR, SAID),
        ({"prompt": "q", "chosen": 7, "rejected": 8.5}, PAIR, None),
        (
            {"question": "q", "best": TALKS["chosen"], "worst": TALKS["rejected"]},
            {"prompt": "question", "chosen": "best", "rejected": "worst"},
            SAID,
        ),
        (
            {"best": TALKS["chosen"], "worst": TALKS["rejected"]},
            {"prompt": "prompt", "chosen": "best", "rejected": "worst"},
            SAID,
        ),
        (
            {"chosen": TALKS["rejected"], "rejected": TALKS["chosen"]},
            {"prompt": "prompt", "chosen": "rejected", "rejected": "chosen"},
            SAID,
        ),
        (
            {
                "chosen": [*LONG, *SAID["chosen"]],
                "rejected": [*LONG, *SAID["rejected"]],
            },
            PAIR,
            {**SAID, "prompt": LONG},
        ),
        (
            {
                "prompt": "p",
                "chosen": [assistant("r"), user("q"), assistant("a")],
                "rejected": [assistant("r"), user("q"), assistant("b")],
            },
            PAIR,
            {
                "prompt": [user("p")],
                "chosen": [assistant("r"), user("q"), assistant("a")],
                "rejected": [assistant("r"), user("q"), assistant("b")],
            },
        ),
        (
            {"prompt": "q", "completion": "a", "label": True},
            JUDGED,
            {"prompt": [user("q")], "completion": [assistant("a")], "label": True},
        ),
        (
            {"completion": TALKS["chosen"], "label": False},
            JUDGED,
            {"prompt": [user("q")], "completion": [assistant("a")], "label": False},
        ),
        (
            {"talk": TALKS["chosen"], "good": False},
            {"prompt": "prompt", "completion": "talk", "label": "good"},
            {"prompt": [user("q")], "completion": [assistant("a")], "label": False},
        ),
    ],
)
def test_preferences_are_prompts_with_answers_however_they_are_kept(
    row: dict[str, Any], columns: dict[str, str], expected: dict[str, Any] | None
) -> None:
    numbers = {"chosen": [assistant("7")], "rejected": [assistant("8.5")]}
    assert preferences(row, columns) == [expected or {**SAID, **numbers}]


@pytest.mark.parametrize(
    "row", [{"prompt": "q", "chosen": "a", "rejected": "b"}, TALKS]
)
def test_a_system_prompt_opens_the_prompts_of_preferences(row: dict[str, Any]) -> None:
    system = {"role": "system", "content": "be terse"}
    found = preferences(row, PAIR, system_prompt="be terse")
    assert found == [{**SAID, "prompt": [system, user("q")]}]
    theirs = {name: [{**system, "content": "x"}, *talk] for name, talk in TALKS.items()}
    [row] = preferences(theirs, PAIR, system_prompt="be terse")
    assert row["prompt"] == [{**system, "content": "x"}, user("q")]


def test_a_limit_and_a_part_hold_for_preferences_too() -> None:
    rows = [
        {name: [user(str(i)), assistant("a")] for name in ("chosen", "rejected")}
        for i in range(8)
    ]
    found = preferences(rows, PAIR, part=[None, -3], limit=4)
    assert [row["prompt"] for row in found] == [[user(str(i))] for i in range(4)]
    found = preferences(rows, PAIR, part=[-3, None])
    assert [row["prompt"] for row in found] == [[user(str(i))] for i in (5, 6, 7)]


@pytest.mark.parametrize(
    ("rows", "columns", "reason"),
    [
        (
            {**TALKS, "rejected": [user("other"), assistant("b")]},
            PAIR,
            "answers to different prompts.*other",
        ),
        ([TALKS, {**TALKS, "chosen": [user("?"), assistant("b")]}], PAIR, "different"),
        ({**TALKS, "rejected": SAID["rejected"]}, PAIR, "different prompts"),
        ({"completion": [user("q")], "label": True}, JUDGED, "prompts"),
        ({"chosen": TALKS["chosen"]}, PAIR, "no column 'rejected'"),
        ({"prompt": "q", "chosen": "a"}, PAIR, "no column 'rejected'"),
        ({"chosen": "a", "rejected": "b"}, PAIR, "no column 'prompt'"),
        (SAID, {**PAIR, "chosen": "best"}, "no column 'best'"),
        ({"prompt": "q", "completion": "a"}, JUDGED, "no column 'label'"),
        ({"completion": TALKS["chosen"]}, JUDGED, "no column 'label'"),
        ([TALKS, {**TALKS, "rejected": None}], PAIR, "a rejected is None"),
        ({**SAID, "chosen": []}, PAIR, r"a chosen is \[\]"),
        ({"prompt": "q", "completion": "a", "label": 1}, JUDGED, "a label is 1"),
        ({"prompt": "q", "completion": "a", "label": "good"}, JUDGED, "is 'good'"),
        (
            [{"prompt": "q", "completion": "a", "label": x} for x in (True, None)],
            JUDGED,
            "a label is None",
        ),
    ],
)
def test_preferences_that_do_not_fit_are_refused_by_name(
    rows: Any, columns: dict[str, str], reason: str
) -> None:
    with pytest.raises(UsageError, match=f"^rows.jsonl.*: .*{reason}") as refused:
        preferences(rows, columns)
    assert refused.value.remedy


def test_conversations_of_preferences_need_a_chat_template() -> None:
    text = {"prompt": "q", "chosen": "a", "rejected": "b"}
    assert preferences(text, PAIR, PLAIN) == [text]
    for row in (SAID, TALKS):
        with pytest.raises(UsageError, match="chat template"):
            preferences(row, PAIR, PLAIN)


@pytest.mark.parametrize("method", ["DPO", "KTO", "ORPO"])
@pytest.mark.parametrize("form", ["text", "talks", "plain"])
def test_trl_trains_on_exactly_these_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, form: str
) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    words = PLAIN if form == "plain" else CHAT
    pair = TALKS if form == "talks" else {"prompt": "q", "chosen": "a", "rejected": "b"}
    row, columns = {**pair}, PAIR
    if method == "KTO":
        row["completion"] = row.pop("chosen")
        row, columns = {**row, "label": True}, JUDGED
    rows = preferences([row] * 2, columns, words)
    trainer = trainers.preference(
        tmp_path, method, rows, words=words, max_steps=1, learning_rate=1e-3
    )
    trainer.train()
    assert trainers.logged(trainer, "loss")
    [batch] = trainer.get_train_dataloader()
    if method == "ORPO":
        tokens = batch["chosen_labels"][0]
        learned = words.decode(tokens[tokens != -100])
    else:
        mask = batch["completion_mask"][0].bool()
        learned = words.decode(batch["input_ids"][0][mask])
    answer = "a<|im_end|>" if form == "plain" else "a<|im_end|>\n"
    end = "<|im_end|>" * (method == "ORPO" and form != "plain")
    assert learned == answer + end


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
