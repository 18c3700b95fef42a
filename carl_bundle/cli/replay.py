"""`carl replay`: recorded steps of a run, run again and compared."""

from __future__ import annotations

from typing import Annotated

import typer

from carl_bundle.cli.output import note


def replay(
    run: Annotated[str, typer.Argument(help="A run directory.")],
    steps: Annotated[
        str, typer.Option(help="Which ones: A:B, or PHASE:A:B for an earlier phase.")
    ] = "",
    random: Annotated[
        int, typer.Option(help="How many steps to draw by chance instead.", min=0)
    ] = 0,
    python: Annotated[
        str, typer.Option(help="The interpreter to run the script with.")
    ] = "",
) -> int:
    """Run steps again from the checkpoint before them: IDENTICAL (0) or not (1).

    The script that the run keeps is run in an environment of its own, with nothing but
    PATH, HOME and what names GPUs and caches.
    """
    from carl_bundle.runs import RunRecord

    record = RunRecord.read(run)
    worst = 0
    for chosen in record.choose(steps, random):
        note(f"replaying {chosen}")
        worst = max(worst, record.replay(chosen, python))
    return worst
