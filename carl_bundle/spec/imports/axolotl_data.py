"""The data sets of an axolotl file: which rows, and which of their columns."""

from __future__ import annotations

from typing import Any

from carl_bundle.spec.imports import common
from carl_bundle.spec.imports.draft import Draft

_FIELDS = {
    "name": "data.config",
    "split": "data.split",
    "revision": "data.revision",
}
_TEMPLATES = ("chatml", "llama3", "chat_template", "zephyr", "gemma", "mistral")
_PREFERENCES: dict[str, dict[str, str]] = {
    "intel": {"prompt": "question"},
    "icr": {"prompt": "input"},
    "ultra": {},
    "prompt_pairs": {},
}
"""Part of a type after the template -> columns that are not named as ours."""

_OWN = {
    "dpo": ("prompt", "chosen", "rejected"),
    "orpo": ("prompt", "chosen", "rejected"),
    "kto": ("prompt", "completion", "label"),
    "sft": ("prompt", "completion"),
}
_OTHER_NAMES = {"field_instruction": "prompt", "field_output": "completion"}
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "ds_type": ("json", "parquet"),
    "trust_remote_code": (False,),
    "chat_template": ("tokenizer_default",),
    "roles_to_train": (["assistant"],),
    "message_property_mappings": ({"role": "role", "content": "content"},),
    "message_field_role": ("role",),
    "message_field_content": ("content",),
}
_SHAPE = (
    "write rows with the columns of the method (docs: carl.yaml, Data), and name "
    "them under data.columns"
)


def read_data(draft: Draft) -> None:
    """Set `data` from `datasets`; a shape of rows that CARL has not is a problem."""
    if "pretraining_dataset" in draft.settings:
        draft.refuse(
            "pretraining_dataset",
            "it is raw text, and every method of CARL trains on prompts and answers",
            _SHAPE,
        )
        draft.drop("pretraining_dataset", "see the error above")
    entries = draft.take("datasets")
    if not entries:
        return
    first = common.first_data_set(draft, entries)
    for key, field in _FIELDS.items():
        draft.move(f"{first}{key}", field)
    kind = draft.take(f"{first}type")
    if isinstance(kind, dict):
        _own_fields(draft, f"{first}type", kind)
    elif draft.method in ("grpo", "rloo"):
        _code(draft, kind)
    else:
        _named(draft, first, kind)
    _mapped_messages(draft, first)
    for key in [key for key in draft.settings if key.startswith(first)]:
        name = key.removeprefix(first)
        if draft.settings[key] in _NEUTRAL.get(name, ()):
            draft.take(key)
        elif name in ("chat_template", "chat_template_jinja"):
            draft.drop(key, common.NO_TEMPLATE)
        else:
            draft.drop(key, "it has no counterpart")


def _own_fields(draft: Draft, key: str, kind: dict[str, Any]) -> None:
    """A type that the file describes: its fields are our columns."""
    for name, value in kind.items():
        column = _OTHER_NAMES.get(name, name.removeprefix("field_"))
        if value is None or value == "":
            continue
        if column in _OWN.get(draft.method, ("prompt",)):
            draft.put(f"{key}.{name}", f"data.columns.{column}", value)
        elif name == "field_input":
            _joined(draft, key, str(value)[:60])
        else:
            draft.dropped[f"{key}.{name}"] = common.NO_TEMPLATE


def _code(draft: Draft, kind: Any) -> None:
    if kind is not None:
        draft.refuse(
            "data",
            f"{str(kind)[:60]} is code of yours that makes the rows",
            "write what it makes into a .jsonl file and set data.id",
        )


def _named(draft: Draft, first: str, kind: Any) -> None:
    """A type that axolotl knows by name."""
    template, _, part = str(kind or "").partition(".")
    messages = draft.take(f"{first}field_messages")
    if template == "chat_template" and draft.method == "sft":
        draft.put(f"{first}type", "data.columns.messages", messages or "messages")
        common.assistant_turns(draft, "axolotl")
        return
    if template == "chat_template" and draft.method in ("dpo", "orpo"):
        draft.put(f"{first}type", "data.columns.prompt", messages or "messages")
        for column in ("chosen", "rejected"):
            theirs = draft.take(f"{first}field_{column}") or column
            draft.put(f"{first}field_{column}", f"data.columns.{column}", theirs)
        common.single_answers(draft)
        return
    if template in _TEMPLATES and part in _PREFERENCES and draft.method in _OWN:
        for column in _OWN[draft.method]:
            theirs = _PREFERENCES[part].get(column, column)
            draft.put(f"{first}type", f"data.columns.{column}", theirs)
        draft.dropped[f"{first}type"] = f"its columns are; {common.NO_TEMPLATE}"
        return
    if template == "alpaca" and draft.method == "sft":
        draft.put(f"{first}type", "data.columns.prompt", "instruction")
        draft.put(f"{first}type", "data.columns.completion", "output")
        _joined(draft, f"{first}type", "input")
        return
    if kind is not None:
        draft.dropped[f"{first}type"] = "CARL does not know this shape of rows"
        draft.refuse("data.columns", f"{str(kind)[:60]} rows are not known", _SHAPE)


def _mapped_messages(draft: Draft, first: str) -> None:
    for key in ("message_property_mappings", "message_field_role"):
        given = draft.settings.get(f"{first}{key}")
        if given is not None and given not in _NEUTRAL[key]:
            draft.refuse(
                "data.columns",
                "the messages name role and content in their own way",
                "write messages as {role, content} into a file and set data.id",
            )


def _joined(draft: Draft, key: str, column: str) -> None:
    draft.refuse(
        "data.columns",
        f"{key} joins a second column ({column}) to the prompt, which would be lost",
        "write the joined prompt into a column, or ignore this if it is empty",
    )
