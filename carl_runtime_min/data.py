"""Rows to train on: loaded, renamed to the names used here, shaped for the trainer."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from carl_runtime_min.errors import UsageError


def hub_rows(source: dict[str, Any]) -> Any:
    """A data set of the hub, at a pinned revision."""
    from datasets import load_dataset

    return load_dataset(
        source["id"],
        source["config"],
        split=source["split"],
        revision=source["revision"],
    )


def file_rows(source: dict[str, Any]) -> Any:
    """A local JSONL, JSON or Parquet file, loaded by what its name ends in."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    kind = "parquet" if source["id"].endswith(".parquet") else "json"
    if not Path(source["id"]).is_file():
        remedy = f"the path is relative to where the script runs, here {Path.cwd()}"
        raise UsageError(f"there is no file {source['id']}", remedy=remedy)
    try:
        return load_dataset(kind, data_files=glob.escape(source["id"]), split="train")
    except (DatasetGenerationError, ValueError, StopIteration) as error:
        remedy = "it needs rows with the same columns; in JSONL each line is an object"
        reason = f"{source['id']}: {error.__cause__ or error or 'no rows'}"
        raise UsageError(reason, remedy=remedy) from error


def prepared(
    rows: Any, source: dict[str, Any], needed: Sequence[str], tokenizer: Any
) -> Any:
    """Rename columns to ours, choose the rows, turn plain text into conversations.

    Text stays text for a tokenizer without a chat template. A prompt that is a whole
    conversation loses its last answer.
    """
    names = {theirs: ours for ours, theirs in source["columns"].items()}
    wanted = [*names, *(name for name in needed if name not in names.values())]
    absent = [name for name in wanted if name not in rows.column_names]
    if absent or len(rows) <= source["skip_last"]:
        raise UsageError(
            f"{source['id']}: no column {absent[0]!r}" if absent else "too few rows",
            remedy=f"map columns under data.columns; there are {rows.column_names}",
        )
    hidden = [x for x in names.values() if x in rows.column_names and x not in names]
    rows = rows.remove_columns(hidden)
    rows = rows.rename_columns({a: b for a, b in names.items() if a != b})
    keep = range(len(rows))[-source["take_last"] :]  # from -0: all
    rows = rows.select(keep[: len(keep) - source["skip_last"]][: source["limit"]])
    system = [{"role": "system", "content": source["system_prompt"]}]
    roles = {"prompt": "user", "completion": "assistant", "messages": "user"}
    remedy = "every row needs text or a list of messages there"

    def converse(row: dict[str, Any]) -> dict[str, Any]:
        shaped = {}
        for name in sorted(roles.keys() & row.keys()):
            text = row[name]
            if name == "completion" and isinstance(text, int | float):
                text = str(text)
            if not isinstance(text, str | list) or text == []:
                raise UsageError(f"{source['id']}: a {name} is {text!r}", remedy=remedy)
            if isinstance(text, str):
                text = [{"role": roles[name], "content": text}]
            if name == "prompt" and text[-1]["role"] == "assistant":
                text = text[:-1]
            own = name == "completion" or text[0]["role"] == "system"
            shaped[name] = text if own or not source["system_prompt"] else system + text
        return shaped

    if tokenizer.chat_template:
        return rows.map(converse)
    if not isinstance(rows[0][needed[0]], str):
        remedy = "use a chat model or its tokenizer (model.tokenizer), or plain text"
        raise UsageError("conversations need a chat template", remedy=remedy)
    return rows


def sft_rows(rows: Any, source: dict[str, Any], tokenizer: Any) -> Any:
    """Rows for SFT: `messages`, or `prompt` with `completion` (else `answer`)."""
    columns = {**{name: name for name in rows.column_names}, **source["columns"]}
    pairs = "messages" not in columns or "prompt" in source["columns"]
    needed = ["prompt", "completion"] if pairs else ["messages"]
    if needed[-1] not in columns and "answer" in columns:
        columns["completion"] = columns["answer"]
    source = {**source, "columns": {name: columns.get(name, name) for name in needed}}
    return prepared(rows, source, needed, tokenizer).select_columns(needed)


def fitting(rows: Any, tokenizer: Any, longest: int) -> Any:
    """Leave out rows whose prompt is longer than `longest` tokens; say how many."""

    def fits(row: dict[str, Any]) -> bool:
        prompt = row["prompt"]
        if isinstance(prompt, str):
            return len(tokenizer(prompt)["input_ids"]) <= longest
        ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True)
        return len(ids["input_ids"]) <= longest

    kept = rows.filter(fits)
    if not kept:
        raise UsageError(
            f"no prompt has at most {longest} tokens", remedy="raise grpo.max_length"
        )
    if len(kept) < len(rows):
        print(f"data: left out {len(rows) - len(kept)} prompts over {longest} tokens")
    return kept
