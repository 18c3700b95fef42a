"""`carl status`: how jobs are, asked of where they run."""

from __future__ import annotations

from typing import Annotated

import typer

from carl_bundle.cli.output import write_json, write_stdout


def status(
    job: Annotated[
        str | None,
        typer.Argument(help="A job's id, or how it begins; all that run if absent."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object.")
    ] = False,
) -> int:
    """Ask how a job is: one line, or JSON with all that happened to it."""
    from carl_bundle.cli.jobs import line
    from carl_bundle.jobs.lifecycle import refresh
    from carl_bundle.jobs.records import Records

    records = Records()
    if job is None:
        wanted = [one for one in records.all() if not one.state.is_end]
    else:
        wanted = [records.find(job)]
    found = [refresh(records, one) for one in wanted]
    if not as_json:
        write_stdout("".join(line(one) for one in found))
        return 0
    jobs = [{**one.document(), "events": records.events(one.id)} for one in found]
    write_json("carl.jobs/1", jobs=jobs)
    return 0
