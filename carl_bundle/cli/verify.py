"""`carl verify`: is a script as it was generated, and a run as it was written?"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from carl_bundle.cli.output import note, write_json, write_stdout

EXIT_CODES = {"PRISTINE": 0, "EDITED": 1, "FOREIGN": 2}


def verify(
    file: Annotated[str, typer.Argument(help="A script, or a run directory.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object.")
    ] = False,
) -> int:
    """Tell whether a script is PRISTINE (0), EDITED (1) or FOREIGN (2).

    Of a run directory, check its script, data, records and weights together.
    """
    from pathlib import Path

    if Path(file).is_dir():
        return _verify_run(file, as_json)
    from carl_bundle.bundler.provenance import ForeignError, Script
    from carl_bundle.bundler.verify import Verification
    from carl_bundle.bundler.verify import verify as check

    try:
        found = check(Script.read(file))
    except ForeignError as error:
        found = Verification("FOREIGN", "", note=str(error))
    if as_json:
        write_json("carl.verify/1", file=file, **asdict(found))
        return EXIT_CODES[found.status]
    lines = [f"{found.status} {file}"]
    lines += [
        f"  {one.section} (line {one.line}) differs from {one.against}"
        for one in found.findings
    ]
    if found.status == "PRISTINE":
        lines.append(f"  compared with {found.against}")
    write_stdout("\n".join(lines) + "\n")
    if found.note:
        note(found.note)
    if found.command:
        note(f"to check it fully: {found.command}")
    return EXIT_CODES[found.status]


def _verify_run(path: str, as_json: bool) -> int:
    from carl_bundle.runs import RunRecord

    run = RunRecord.read(path)
    faults = run.faults()
    for name in run.absent():
        note(f"{name} is not here, and was not checked")
    status = "EDITED" if faults else "PRISTINE"
    if as_json:
        write_json("carl.verify-run/1", run=path, status=status, faults=faults)
    else:
        write_stdout(
            "\n".join([f"{status} {path}", *(f"  {x}" for x in faults)]) + "\n"
        )
    return EXIT_CODES[status]
