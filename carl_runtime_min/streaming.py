"""Rows that are read while the model trains: a data set too large to keep or to sort.

The order depends on the seed alone, so that a resumed run, which reads the stream again
up to where it stopped, goes on with exactly the next row.
"""

from __future__ import annotations

import glob
from typing import Any

from carl_runtime_min.data import row_length, sft_columns, shaped_row
from carl_runtime_min.errors import UsageError

NEAR = 1000  # rows that are shuffled among each other


def hub_stream(source: dict[str, Any]) -> Any:
    """A data set of the hub at a pinned revision, read as it is used."""
    from datasets import load_dataset

    options = {name: source[name] for name in ("split", "revision")}
    return load_dataset(source["id"], source["config"], streaming=True, **options)


def file_stream(source: dict[str, Any]) -> Any:
    """A local JSONL, JSON or Parquet file, read as it is used."""
    from datasets import load_dataset

    path, kind = source["id"], "parquet" if source["id"].endswith("parquet") else "json"
    files = {"data_files": glob.escape(path), "split": "train"}
    try:
        rows = load_dataset(kind, streaming=True, **files)
        next(iter(rows))
        return rows
    except Exception as error:  # the libraries below raise too many kinds to name
        remedy = "put rows with the same columns there, in UTF-8; JSONL has one a line"
        reason = f"{path}: {str(error.__cause__ or error) or 'no rows'}"
        raise UsageError(reason, remedy=remedy) from error


def streamed(rows: Any, source: dict[str, Any], tokenizer: Any, seed: int) -> Any:
    """Rows for SFT as they come: shaped, the too long ones dropped, shuffled nearby.

    A training set starts over when it ends. UsageError names a column or the first row
    at once, a later row when it is read.
    """
    name, first = source["id"], next(iter(rows))
    columns = sft_columns(list(first), source)
    if "tools" in columns and "tools" not in str(tokenizer.chat_template):
        remedy = "give a model.chat_template that does, or leave the column out"
        raise UsageError(f"{name}: the chat template shows no 'tools'", remedy=remedy)
    absent = [theirs for theirs in columns.values() if theirs not in first]
    if absent:
        remedy = f"map columns under data.columns; there are {list(first)}"
        raise UsageError(f"{name}: no column {absent[0]!r}", remedy=remedy)

    def ours(row: dict[str, Any], place: int) -> dict[str, Any]:
        given = {**source, "columns": columns}
        return shaped_row(row, place + 1, given, tokenizer)

    def fits(row: dict[str, Any]) -> bool:
        return row_length(row, tokenizer) <= int(source["longest"])

    ours(first, 0)
    rows = rows.take(source["limit"]) if source["limit"] else rows
    rows = rows.map(ours, with_indices=True, remove_columns=list(first))
    rows = rows.filter(fits) if source["too_long"] == "drop" else rows
    if not source["endless"]:
        return rows
    if next(iter(rows), None) is None:
        remedy = "raise max_length, or set too_long to truncate"
        raise UsageError(f"{name}: no row fits into max_length", remedy=remedy)
    return rows.shuffle(seed=seed, buffer_size=NEAR).repeat(None)


def mixed_streams(parts: list[Any], sources: list[dict[str, Any]], seed: int) -> Any:
    """The rows of several endless streams in one, drawn by their weights."""
    from datasets import interleave_datasets

    if len(parts) == 1:
        return parts[0]
    weights = [source["weight"] for source in sources]
    shares = [weight / sum(weights) for weight in weights]
    return interleave_datasets(parts, shares, seed)
