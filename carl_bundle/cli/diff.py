"""`carl diff`: how two scripts differ, section by section."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from carl_bundle.cli.output import write_json, write_stdout

if TYPE_CHECKING:
    from carl_bundle.bundler.diff import Change


def diff(
    one: Annotated[str, typer.Argument(metavar="A", help="A script.")],
    other: Annotated[str, typer.Argument(metavar="B", help="Another script.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object.")
    ] = False,
) -> int:
    """Compare two scripts by section. Exits 0 if they are equal, 1 if they differ."""
    from carl_bundle.bundler.diff import diff as compare
    from carl_bundle.bundler.provenance import Script

    changes = compare(Script.read(one), Script.read(other))
    if as_json:
        write_json("carl.diff/1", a=one, b=other, changes=[asdict(c) for c in changes])
    else:
        write_stdout("".join(_shown(changes)))
    return 1 if changes else 0


def _shown(changes: list[Change]) -> list[str]:
    lines, kind = [], ""
    for change in changes:
        if change.kind != kind:
            kind = change.kind
            lines.append(f"{kind}\n")
        if change.lines:
            lines.append(f"  {change.where}\n")
            lines += [f"    {line}\n" for line in change.lines]
        elif kind == "dependencies":
            lines.append(f"  {'-' if change.after is None else '+'} {change.where}\n")
        else:
            lines.append(f"  {change.where}: {change.before!r} -> {change.after!r}\n")
    return lines
