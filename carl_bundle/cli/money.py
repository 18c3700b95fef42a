"""Before money is spent: how much it can be, and whether that is wanted."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from carl_bundle.errors import UsageError

Yes = Annotated[bool, typer.Option("--yes", help="Spend what it costs, unasked.")]
MaxCost = Annotated[
    float | None,
    typer.Option(metavar="USD", help="Refuse what may cost more.", min=0),
]


def agree(plan: Mapping[str, Any], yes: bool, max_cost: float | None) -> None:
    """Show what a plan may cost and ask; nothing if its backend names no price.

    A plan that costs money has `usd_per_hour`, None if that is not known, and `limit`,
    the seconds after which it costs no more.

    Raises:
        UsageError: It is not agreed to, or nobody is there who could.
    """
    if "usd_per_hour" not in plan:
        return
    price, seconds = plan["usd_per_hour"], plan.get("limit")
    most = None if price is None or not seconds else price * seconds / 3600
    hours = f"{seconds / 3600:g} h" if seconds else "no limit"
    rate = "an unknown price" if price is None else f"{price:.2f} USD/h"
    total = "" if most is None else f" = at most {most:.2f} USD"
    print(f"{plan.get('flavor', 'it')}: {rate} x {hours}{total}", file=sys.stderr)
    if max_cost is not None and (most is None or most > max_cost):
        remedy = "shorten --timeout, choose a cheaper machine, or raise --max-cost"
        raise UsageError(f"that may be more than {max_cost:.2f} USD", remedy=remedy)
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("it costs money, and nobody agrees", remedy="--yes agrees")
    print("Start it? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was started", remedy="answer y, or give --yes")
