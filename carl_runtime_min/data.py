"""Rows to train on: loaded, renamed to the names used here, shaped for the trainer."""

from __future__ import annotations

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
        return load_dataset(kind, data_files=source["id"], split="train")
    except DatasetGenerationError as error:
        remedy = "every line must be a JSON object with the same columns and types"
        reason = f"{source['id']}: {error.__cause__ or error}"
        raise UsageError(reason, remedy=remedy) from error


def prepared(
    rows: Any, source: dict[str, Any], needed: Sequence[str], tokenizer: Any
) -> Any:
    """Rename columns to ours, cut to `limit`, turn plain text into conversations.

    Text stays text for a tokenizer without a chat template. A prompt that is a whole
    conversation loses its last answer.
    """
    names = {theirs: ours for ours, theirs in source["columns"].items()}
    wanted = [*names, *(name for name in needed if name not in names.values())]
    absent = [name for name in wanted if name not in rows.column_names]
    if absent or not len(rows):
        raise UsageError(
            f"{source['id']}: no column {absent[0]!r}" if absent else "no rows at all",
            remedy=f"map columns under data.columns; there are {rows.column_names}",
        )
    rows = rows.rename_columns({a: b for a, b in names.items() if a != b})
    rows = rows.select(range(min(source["limit"] or len(rows), len(rows))))
    system = [{"role": "system", "content": source["system_prompt"]}]
    roles = {"prompt": "user", "completion": "assistant"}

    def converse(row: dict[str, Any]) -> dict[str, Any]:
        shaped = {}
        for name in roles.keys() & row.keys():
            text = row[name]
            if isinstance(text, str):
                text = [{"role": roles[name], "content": text}]
            if name == "prompt" and text[-1]["role"] == "assistant":
                text = text[:-1]
            prefix = system if name == "prompt" and source["system_prompt"] else []
            shaped[name] = prefix + text
        return shaped

    return rows.map(converse) if tokenizer.chat_template else rows


def sft_rows(rows: Any, source: dict[str, Any], tokenizer: Any) -> Any:
    """Rows for SFT: `messages`, or `prompt` with `completion` (else `answer`)."""
    columns = {**{name: name for name in rows.column_names}, **source["columns"]}
    needed = ["messages"] if "messages" in columns else ["prompt", "completion"]
    if needed[-1] not in columns and "answer" in columns:
        columns["completion"] = columns["answer"]
    source = {**source, "columns": {name: columns.get(name, name) for name in needed}}
    return prepared(rows, source, needed, tokenizer).select_columns(needed)
