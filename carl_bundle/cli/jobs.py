"""How jobs are shown in a terminal."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from carl_bundle.jobs.records import JobRecord


def line(record: JobRecord) -> str:
    """One line: id, state, how long it ran, where, its name, and why."""
    ran = "-"
    if record.seconds is not None:
        ran = str(datetime.timedelta(seconds=round(record.seconds)))
    parts = (record.id, f"{record.state:9}", f"{ran:>8}", f"{record.compute:12}")
    why = f"  ({record.reason})" if record.reason else ""
    return f"{'  '.join(parts)}  {record.name}{why}\n"
