"""`carl doctor`: whether jobs will find what they need."""

from __future__ import annotations

import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from carl_bundle.cli.output import write_json, write_stdout

if TYPE_CHECKING:
    from carl_bundle.backends.doctor import Check


def doctor(
    compute: Annotated[
        str, typer.Option(help="Where jobs are to run, as for carl train.")
    ] = "local",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object.")
    ] = False,
) -> int:
    """Look at what jobs need; 4 if something is missing."""
    from carl_bundle.backends.compute import Compute
    from carl_bundle.backends.doctor import here
    from carl_bundle.jobs.records import state_folder

    where = Compute.parse(compute)
    ssh = ("ssh",) * (where.backend in ("ssh", "slurm") and bool(where.target))
    checks = here(state_folder(), where.backend, ssh)
    if all(one.state == "ok" for one in checks if one.name in ("ssh", "credentials")):
        checks += getattr(where.connect(), "doctor", list)()
    if as_json:
        write_json("carl.doctor/1", compute=compute, checks=list(map(asdict, checks)))
    else:
        write_stdout("".join(map(line, checks)))
    return 4 if any(one.state == "missing" for one in checks) else 0


def line(check: Check) -> str:
    """State, name and what was found; the remedy below."""
    found = f"{check.state:7}  {check.name:11}  {check.found}\n"
    remedy = check.remedy and f"fix: {check.remedy}\n"
    return found + textwrap.indent(remedy, " " * 22)
