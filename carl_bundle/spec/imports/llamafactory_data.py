"""The data sets of a LLaMA-Factory file, which its dataset_info.json describes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from carl_bundle.errors import UsageError
from carl_bundle.spec.imports import common
from carl_bundle.spec.imports.draft import Draft
from carl_bundle.spec.yaml import MAX_BYTES

INFO = "dataset_info.json"
_ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}
_TAGS = {"role_tag": "role", "content_tag": "content"}
_ROWS = "write rows with prompt and answer into a .jsonl file, and set data.id"


def read_data(draft: Draft, folder: Path) -> None:
    """Set `data` from the data sets that the file names.

    Args:
        draft: The spec in the making.
        folder: Where the file lies; `dataset_dir` is looked for here and there.
    """
    draft.move("max_samples", "data.limit")
    where = str(draft.take("dataset_dir") or "data")
    given = draft.take("dataset")
    names = given if isinstance(given, list) else str(given or "").split(",")
    names = [str(name).strip() for name in names if str(name).strip()]
    if not names:
        return
    if len(names) > 1:
        draft.refuse(
            "dataset",
            f"the file trains on {len(names)} data sets, of which one is read here",
            "write data as a list of sources, each with a weight",
        )
    if where == "ONLINE":
        draft.put("dataset", "data.id", names[0])
        _alpaca(draft, {}, ranking=False)
        return
    found = _info(where, folder)
    entry = found.get(names[0]) if found is not None else None
    if isinstance(entry, dict):
        _entry(draft, entry, where)
        return
    draft.dropped["dataset"] = f"it is a name in {where}/{INFO}"
    draft.refuse(
        "data.id",
        f"{names[0][:60]!r} is a name in {where}/{INFO}, "
        + ("which is not there" if found is None else "but it does not stand there"),
        "run carl import beside that folder, or set data.id and data.columns",
    )


def _info(where: str, folder: Path) -> dict[str, Any] | None:
    """What the description of the data sets holds; None if there is none."""
    for base in (Path(), folder):
        path = base / where / INFO
        try:
            if not path.is_file():
                continue
            with path.open("rb") as file:
                value = json.loads(file.read(MAX_BYTES + 1)[: MAX_BYTES + 1])
        except (OSError, ValueError, RecursionError) as error:
            raise UsageError(
                f"cannot read {path}: {error}", remedy="correct it, or move it away"
            ) from error
        return value if isinstance(value, dict) else {}
    return None


def _entry(draft: Draft, entry: dict[str, Any], where: str) -> None:
    """Set `data` from one description."""
    if "hf_hub_url" in entry:
        draft.put("dataset", "data.id", entry["hf_hub_url"])
        for key, field in (("subset", "config"), ("revision", "revision")):
            if entry.get(key):
                draft.put(f"dataset.{key}", f"data.{field}", entry[key])
    else:
        if entry.get("file_name"):
            path = str(Path(where) / str(entry["file_name"]))
            draft.put("dataset", "data.id", path)
    if entry.get("split"):
        draft.put("dataset.split", "data.split", entry["split"])
    if entry.get("num_samples"):
        draft.put("dataset.num_samples", "data.limit", entry["num_samples"])
    for key in ("folder", "script_url", "ms_hub_url"):
        if entry.get(key) and not ("hf_hub_url" in entry and key == "ms_hub_url"):
            draft.dropped[f"dataset.{key}"] = "it has no counterpart"
    columns = entry.get("columns")
    columns = columns if isinstance(columns, dict) else {}
    if entry.get("formatting", "alpaca") == "sharegpt":
        _messages(draft, columns, entry.get("tags"))
    else:
        _alpaca(draft, columns, ranking=bool(entry.get("ranking")))


def _alpaca(draft: Draft, columns: dict[str, Any], *, ranking: bool) -> None:
    """Columns for prompt and answers; a second column is joined to the prompt."""
    named = columns or _ALPACA
    ours = {"prompt": "prompt"}
    if ranking:
        ours |= {"chosen": "chosen", "rejected": "rejected"}
    else:
        ours |= {"response": "completion", "kto_tag": "label"}
    for theirs, column in ours.items():
        if named.get(theirs):
            draft.put(
                f"dataset.columns.{theirs}", f"data.columns.{column}", named[theirs]
            )
    if named.get("query"):
        draft.refuse(
            "data.columns",
            f"the column {str(named['query'])[:60]!r} is joined to the prompt there, "
            "and would be lost",
            "write the joined prompt into a column, or ignore this if it is empty",
        )
    for theirs in ("system", "history", "tools", "images", "videos", "audios"):
        if named.get(theirs):
            draft.dropped[f"dataset.columns.{theirs}"] = "it has no counterpart"


def _messages(draft: Draft, columns: dict[str, Any], tags: Any) -> None:
    """A column of whole conversations, if its messages have role and content."""
    tags = tags if isinstance(tags, dict) else {}
    if any(tags.get(tag) != name for tag, name in _TAGS.items()):
        draft.refuse(
            "data.columns",
            "the messages name role and content in their own way (from, value)",
            "write messages as {role, content} into a file and set data.id",
        )
    column = columns.get("messages") or "conversations"
    if draft.method == "sft":
        draft.put("dataset.columns.messages", "data.columns.messages", column)
        common.assistant_turns(draft, "LLaMA-Factory")
        return
    ours = {"messages": "completion", "kto_tag": "label"}
    if draft.method != "kto":
        ours = {"messages": "prompt", "chosen": "chosen", "rejected": "rejected"}
    for theirs, name in ours.items():
        value = columns.get(theirs, column if theirs == "messages" else None)
        if value:
            draft.put(f"dataset.columns.{theirs}", f"data.columns.{name}", value)
    if columns.get("chosen"):
        common.single_answers(draft)
