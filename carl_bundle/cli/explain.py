"""`carl explain`: where a line of a script comes from, and what put it there."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from carl_bundle.cli.output import write_json, write_stdout

if TYPE_CHECKING:
    from carl_bundle.bundler.explain import Explainer, Explanation


def explain(
    where: Annotated[str, typer.Argument(metavar="FILE[:LINE]", help="A script.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object.")
    ] = False,
) -> int:
    """Explain one line of a script, or list its sections and imports."""
    from carl_bundle.bundler.explain import Explainer
    from carl_bundle.bundler.provenance import Script

    match = re.fullmatch(r"(.+):(\d+)", where)
    file = match[1] if match else where
    explainer = Explainer(Script.read(file))
    if match:
        found = explainer.explain(int(match[2]))
        if as_json:
            write_json("carl.explain-line/1", file=file, **asdict(found))
        else:
            write_stdout(_line(file, found))
    elif as_json:
        write_json(
            "carl.explain/1",
            file=file,
            sections=[asdict(part) for part in explainer.parts()],
            imports=explainer.imports(),
            user_code=[asdict(part) for part in explainer.user_parts()],
        )
    else:
        write_stdout(_overview(explainer))
    return 0


def _line(file: str, found: Explanation) -> str:
    rows = [
        ("line", f"{file}:{found.line}"),
        ("section", found.section),
        ("origin", found.origin),
        ("within", found.definition),
        ("used by" if found.section == "header" else "reached", _chain(found)),
        ("set by", ", ".join(found.settings)),
    ]
    return "".join(f"{name:<8} {value}\n" for name, value in rows if value)


def _chain(found: Explanation) -> str:
    return (", " if found.section == "header" else " -> ").join(found.why)


def _overview(explainer: Explainer) -> str:
    lines = ["sections\n"]
    for part in explainer.parts():
        mark = "" if part.is_intact else "  (edited)"
        lines.append(f"  {part.first:>5}-{part.last:<5} {part.name}{mark}\n")
        if part.definitions:
            lines.append(f"{'':14}{', '.join(part.definitions)}\n")
    lines.append("imports\n")
    for name, users in explainer.imports().items():
        lines.append(f"  {name}: {', '.join(users)}\n")
    for user in explainer.user_parts():
        lines.append(f"user code {user.name}\n")
        lines.append(f"  imports: {', '.join(user.imports) or 'nothing'}\n")
        lines.append(f"  calls: {', '.join(user.calls) or 'nothing'}\n")
    return "".join(lines)
