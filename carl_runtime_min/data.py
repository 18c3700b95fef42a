"""Rows to train on: loaded, renamed to the names used here, shaped for the trainer."""

from __future__ import annotations

import glob
import json
import os
from functools import partial
from typing import Any

from carl_runtime_min.errors import UsageError

QUESTIONS = ("prompt", "messages")
ANSWERS = ("completion", "chosen", "rejected")
IMAGES = ("image", "images")


def hub_rows(source: dict[str, Any]) -> Any:
    """A data set of the hub, at a pinned revision."""
    from datasets import load_dataset

    options = {name: source[name] for name in ("split", "revision")}
    return load_dataset(source["id"], source["config"], **options)


def file_rows(source: dict[str, Any]) -> Any:
    """A local JSONL, JSON or Parquet file, loaded by what its name ends in."""
    from datasets import load_dataset

    path, kind = source["id"], "parquet" if source["id"].endswith("parquet") else "json"
    try:
        rows = load_dataset(kind, data_files=glob.escape(path), split="train")
        rows.data.validate(full=True)  # is it UTF-8?
        return rows
    except Exception as error:  # the libraries below raise too many kinds to name
        remedy = "put rows with the same columns there, in UTF-8; JSONL has one a line"
        reason = f"{path}: {str(error.__cause__ or error) or 'no rows'}"
        raise UsageError(reason, remedy=remedy) from error


def is_text(value: Any) -> bool:
    """Whether `value` is text, or a list of messages that have roles."""
    turns = value if isinstance(value, list) else []
    own = [isinstance(turn, dict) and "role" in turn for turn in turns]
    return isinstance(value, str) or (bool(own) and all(own))


def tools_of(row: dict[str, Any]) -> Any:
    """The tools that a row offers, None if it has none: a list, or that as JSON."""
    tools = row.get("tools")
    return (json.loads(tools) if isinstance(tools, str) else tools) or None


def shaped_row(row: Any, number: int, source: Any, tokenizer: Any) -> dict[str, Any]:
    """Our columns of a row, plain text as conversations; rows are counted from 1.

    Text stays text for a tokenizer without a chat template. A prompt that is a whole
    conversation loses its last answer.
    """
    where, chat = f"{source['id']}, row {number}", bool(tokenizer.chat_template)
    system = [{"role": "system", "content": source["system_prompt"]}]

    def shaped(column: str, text: Any) -> Any:
        if column in ANSWERS and isinstance(text, int | float):
            text = str(text)
        if not is_text(text):
            remedy = f"{source['columns'][column]!r} needs text or [{{role, content}}]"
            raise UsageError(f"{where}: a {column} is {text!r}", remedy=remedy)
        if not chat and isinstance(text, list):
            remedy = "use a chat model or its tokenizer (model.tokenizer), or text"
            raise UsageError(f"{where} needs a chat template", remedy=remedy)
        if not chat:
            return text
        if isinstance(text, str):
            role = "assistant" if column in ANSWERS else "user"
            text = [{"role": role, "content": text}]
        if column == "prompt" and text[-1]["role"] == "assistant":
            text = text[:-1]
        if not text:
            raise UsageError(f"{where}: a prompt is an answer", remedy="mend the row")
        own = column in ANSWERS or text[0]["role"] == "system"
        return text if own or not source["system_prompt"] else system + text

    values = {column: row[theirs] for column, theirs in source["columns"].items()}
    try:
        tools_of(values)
    except ValueError as error:
        remedy = "give a list of tools, or such a list as JSON"
        raise UsageError(f"{where}: tools: {error}", remedy=remedy) from error
    texts = QUESTIONS + ANSWERS
    return {c: shaped(c, v) if c in texts else v for c, v in values.items()}


def prepared(rows: Any, source: dict[str, Any], tokenizer: Any) -> Any:
    """The rows of the spec with our columns; UsageError names the column or the row."""
    columns, name = source["columns"], source["id"]
    absent = [theirs for theirs in columns.values() if theirs not in rows.column_names]
    kept = range(len(rows))[slice(*source["part"])][: source["limit"]]
    if absent or not kept:
        reason = f"no column {absent[0]!r}" if absent else "too few rows"
        remedy = f"map columns under data.columns; there are {rows.column_names}"
        remedy = remedy if absent else "add rows, or lower eval.items"
        raise UsageError(f"{name}: {reason}", remedy=remedy)

    def ours(row: dict[str, Any], place: int) -> dict[str, Any]:
        return shaped_row(row, kept[place] + 1, source, tokenizer)

    others = {*rows.column_names} - {*columns}
    unread = sorted({*ANSWERS, *IMAGES} & others)  # by us; TRL reads them
    return rows.select(kept).map(ours, with_indices=True, remove_columns=unread)


def sft_columns(names: list[str], source: dict[str, Any]) -> dict[str, str]:
    """Ours and theirs: `messages`, or `prompt` with `completion` (else `answer`)."""
    columns = {**{name: name for name in names}, **source["columns"]}
    needed = ["prompt", "completion"]
    if "messages" in columns and "prompt" not in source["columns"]:
        needed = ["messages"]
    columns.setdefault("completion", columns.get("answer", "completion"))
    needed += ["tools"] * ("tools" in columns)
    needed += [name for name in IMAGES if name in source["columns"]]
    return {name: columns.get(name, name) for name in needed}


def sft_rows(rows: Any, source: dict[str, Any], tokenizer: Any) -> Any:
    """Rows for SFT, with the columns that it learns from."""
    columns, name = sft_columns(rows.column_names, source), source["id"]
    if "tools" in columns and "tools" not in str(tokenizer.chat_template):
        remedy = "give a model.chat_template that does, or leave the column out"
        raise UsageError(f"{name}: the chat template shows no 'tools'", remedy=remedy)
    rows = prepared(rows, {**source, "columns": columns}, tokenizer)
    return rows.select_columns(list(columns))


def preference_rows(rows: Any, source: dict[str, Any], tokenizer: Any) -> Any:
    """Rows {prompt, chosen, rejected}, or {prompt, completion, label}.

    Answers that are whole conversations hold their prompt, which is split off.
    """
    columns, name = source["columns"], source["id"]
    own = {ours: columns[ours] for ours in columns if ours != "prompt"}

    def split(row: dict[str, Any], place: int) -> dict[str, Any]:
        talks = {column: row[column] for column in own if column in ANSWERS}
        prompts = [talk[:-1] for talk in talks.values()]
        if not prompts[0] or any(prompt != prompts[0] for prompt in prompts):
            reason = f"{name}, row {place + 1}: answers to different prompts: {prompts}"
            raise UsageError(reason, remedy="let answers continue one conversation")
        return {"prompt": prompts[0]} | {c: talk[-1:] for c, talk in talks.items()}

    first = next(iter(rows), {}).get(next(iter(own.values())))
    if isinstance(first, list) and is_text(first) and first[0]["role"] != "assistant":
        rows = prepared(rows, {**source, "columns": own}, tokenizer)
        rows = rows.map(split, with_indices=True)
        source = {**source, "columns": {c: c for c in columns}, "part": [None, None]}
    rows = prepared(rows, source, tokenizer)
    for place, label in enumerate(rows["label"] if "label" in own else ()):
        if not isinstance(label, bool):
            remedy = f"make {columns['label']!r} true (good) or false (bad)"
            reason = f"{name}, row {place + 1}: a label is {label!r}"
            raise UsageError(reason, remedy=remedy)
    return rows.select_columns(list(columns))


def row_length(row: dict[str, Any], tokenizer: Any) -> int:
    """Tokens of a row: of its prompt, with the longest of its answers if it has any."""
    asked = row["prompt"] if "prompt" in row else row["messages"]
    answers = [row[name] for name in ANSWERS if name in row]
    whole = [asked + answer for answer in answers] or [asked]
    if isinstance(asked, str):
        end = bool(answers)  # the trainer appends the end of sequence
        return max(len(tokenizer(text)["input_ids"]) + end for text in whole)
    start = not answers and "messages" not in row  # of an answer yet to come
    given = {"add_generation_prompt": start, "tools": None if start else tools_of(row)}
    render = partial(tokenizer.apply_chat_template, **given)
    return max(len(render(talk)["input_ids"]) for talk in whole)


def fitting(rows: Any, tokenizer: Any, source: dict[str, Any]) -> Any:
    """Rows of at most `longest` tokens; others are cut by the trainer, or left out."""
    return within(rows, [row_length(row, tokenizer) for row in rows], source)


def within(rows: Any, lengths: list[int], source: dict[str, Any]) -> Any:
    """The rows whose `lengths` suit the spec's policy. Says how many are too long.

    UsageError: one is refused, or none is left.
    """
    longest, policy = source["longest"], source["too_long"]
    fits = [i for i, length in enumerate(lengths) if length <= longest]
    over, remedy = len(rows) - len(fits), "raise max_length, or set too_long to drop"
    what = f"{source['id']}: {over} of {len(rows)} rows have over {longest} tokens"
    if over and (policy == "refuse" or (policy == "drop" and not fits)):
        first = next(i for i, length in enumerate(lengths) if length > longest)
        raise UsageError(f"{what}, the first is row {first + 1}", remedy=remedy)
    if over and os.environ.get("RANK", "0") == "0":
        cut = "cut by the trainer, or left out if the answer has no room"
        print(f"{what}: {'left out' if policy == 'drop' else cut}")
    return rows.select(fits) if policy == "drop" else rows
