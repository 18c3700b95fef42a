"""Rows to train on: loaded, renamed to the names used here, shaped for the trainer."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from carl_runtime_min.errors import ConfigurationError, UsageError


def hub_rows(source: dict[str, Any]) -> Any:
    """A data set of the hub, at a pinned revision."""
    from datasets import load_dataset

    try:
        return load_dataset(
            source["id"],
            source.get("config"),
            split=source["split"],
            revision=source["revision"],
        )
    except (ConnectionError, OSError) as error:
        raise ConfigurationError(
            f"cannot load the data set {source['id']} at {source['revision']}: {error}",
            remedy="log in to the hub, or copy the rows into a local JSONL file",
        ) from error


def file_rows(source: dict[str, Any]) -> Any:
    """A local JSONL, JSON or Parquet file."""
    from datasets import load_dataset

    path = Path(source["id"])
    if not path.is_file():
        raise UsageError(
            f"there is no data file {path}",
            remedy=f"run the script where it lies, here is {Path.cwd()}",
        )
    kind = "parquet" if path.suffix == ".parquet" else "json"
    try:
        return load_dataset(kind, data_files=str(path), split="train")
    except Exception as error:
        raise UsageError(
            f"{path} does not hold rows of one shape: {error.__cause__ or error}",
            remedy="every line must be a JSON object with the same columns",
        ) from error


def prepared(
    rows: Any, source: dict[str, Any], needed: Iterable[str], chat: bool
) -> Any:
    """Rename columns, cut to `limit`, and turn texts into conversations.

    Args:
        rows: The data set as loaded.
        source: The data block of the spec: columns (our name -> theirs), limit,
            system_prompt.
        needed: Columns without which the phase cannot run.
        chat: Whether the tokenizer has a chat template; then a prompt or completion
            that is plain text becomes a message.

    Raises:
        UsageError: A needed column is missing, or there are no rows.
    """
    for ours, theirs in source["columns"].items():
        if theirs not in rows.column_names:
            raise UsageError(
                f"data.columns.{ours}: there is no column {theirs!r} in {source['id']}",
                remedy=f"choose one of: {', '.join(rows.column_names)}",
            )
        if ours != theirs:
            rows = rows.rename_column(theirs, ours)
    missing = [name for name in needed if name not in rows.column_names]
    if missing:
        raise UsageError(
            f"{source['id']} lacks the column {missing[0]!r}, "
            f"it has: {', '.join(rows.column_names)}",
            remedy=f"map it: data.columns.{missing[0]}: <name of your column>",
        )
    if source["limit"] is not None:
        rows = rows.select(range(min(source["limit"], len(rows))))
    if not len(rows):
        raise UsageError(f"{source['id']} holds no rows", remedy="check data.split")
    if not chat:
        return rows
    system = source["system_prompt"]

    def converse(row: dict[str, Any]) -> dict[str, Any]:
        shaped = {}
        for name, role in (("prompt", "user"), ("completion", "assistant")):
            if isinstance(row.get(name), str):
                shaped[name] = [{"role": role, "content": row[name]}]
        if system and "prompt" in row:
            prompt = shaped.get("prompt", row["prompt"])
            shaped["prompt"] = [{"role": "system", "content": system}, *prompt]
        return shaped

    return rows.map(converse)


def sft_rows(rows: Any, source: dict[str, Any], chat: bool) -> Any:
    """Rows for SFT: `messages`, or `prompt` with `completion` (else `answer`)."""
    columns = {**{name: name for name in rows.column_names}, **source["columns"]}
    if "messages" in columns:
        needed = ["messages"]
    elif "completion" in columns or "answer" not in columns:
        needed = ["prompt", "completion"]
    else:
        source = {**source, "columns": {**source["columns"]}}
        source["columns"]["completion"] = source["columns"].pop("answer", "answer")
        needed = ["prompt", "completion"]
    return prepared(rows, source, needed, chat).select_columns(needed)
