"""From the settings of another tool to the document of a spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carl_bundle.errors import Problem
from carl_bundle.spec.document import Document
from carl_bundle.spec.imports.detect import Format
from carl_bundle.spec.imports.draft import Draft


@dataclass(frozen=True)
class Imported:
    """What became of a configuration file.

    Attributes:
        document: The spec; valid if there are no problems.
        dropped: Settings that are not taken over, in the order of the file, and why.
        remarks: Sentences about what no single setting says.
        problems: What is missing before the spec trains the same thing.
    """

    document: Document
    dropped: dict[str, str]
    remarks: tuple[str, ...]
    problems: tuple[Problem, ...]


def translate(
    settings: Mapping[str, Any],
    kind: Format,
    method: str | None = None,
    folder: Path = Path(),
) -> Imported:
    """Translate the settings of another tool.

    Args:
        settings: What its configuration file holds.
        kind: Whose settings they are.
        method: The method of the spec, instead of the one that the settings tell.
        folder: Where the file lies; LLaMA-Factory describes its data beside it.

    Raises:
        UsageError: The settings tell no method that CARL has.
    """
    if kind == "trl":
        from carl_bundle.spec.imports.trl import read
    elif kind == "axolotl":
        from carl_bundle.spec.imports.axolotl import read
    else:
        from carl_bundle.spec.imports.llamafactory import read
    draft: Draft = read(settings, method, folder)
    draft.settle()
    draft.remarks.append(
        "what the file leaves out takes CARL's defaults, not those of the other "
        "tool; `carl inspect` shows them"
    )
    if draft.method in ("grpo", "rloo"):
        draft.remarks.append(
            "the reward of CARL joins the task rewards; set carl.enabled to false "
            "to train without it, as before"
        )
    order = {key: place for place, key in enumerate(settings)}
    dropped = sorted(
        draft.dropped.items(),
        key=lambda item: order.get(item[0].partition(".")[0], len(order)),
    )
    return Imported(
        draft.document, dict(dropped), tuple(draft.remarks), tuple(draft.problems)
    )
