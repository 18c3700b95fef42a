"""What benchmarks share: timing by turns, and the rows of the one table."""

from __future__ import annotations

import importlib
import random
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PAIRS = 30
HEADS = ("", "measured", "95 %", "control", "limit", "")


@dataclass(frozen=True)
class Row:
    """One quantity of the table.

    Attributes:
        name: What it is, with its unit.
        measured: Its value; None if it was not measured.
        limit: What it may not exceed, or must reach if `least`; None if there is none.
        bound: Where it is a median of ratios, the 95 % bound of that median on the side
            of the limit. It decides instead of `measured`.
        control: The same ratio of a program beside itself.
        form: How its numbers are printed.
    """

    name: str
    measured: float | None
    limit: float | None = None
    bound: float | None = None
    control: float | None = None
    least: bool = False
    form: str = ".3g"

    @property
    def status(self) -> str:
        """`met`, `MISSED`, `not measured`, or nothing where no limit is stated."""
        if self.measured is None:
            return "not measured"
        if self.limit is None:
            return ""
        found = self.measured if self.bound is None else self.bound
        met = found >= self.limit if self.least else found <= self.limit
        return "met" if met else "MISSED"

    def cells(self) -> list[str]:
        numbers = (self.measured, self.bound, self.control, self.limit)
        cells = ["" if n is None else format(n, self.form) for n in numbers]
        if self.limit is not None:
            cells[3] = f"{'≥' if self.least else '≤'} {cells[3]}"
        return [self.name, *cells, self.status]


def measured(name: str) -> list[Row]:
    """The rows of a benchmark."""
    rows: list[Row] = importlib.import_module(f"benchmarks.{name}").rows()
    return rows


def table(rows: Sequence[Row]) -> str:
    """The rows as a table of Markdown."""
    lines = [list(HEADS), *(row.cells() for row in rows)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])])
    return "\n".join(f"| {' | '.join(padded(line, widths))} |" for line in lines)


def padded(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    """The cells of a line, names on the left, numbers on the right."""
    cells = [cell.rjust(w) for cell, w in zip(line, widths, strict=True)]
    return [line[0].ljust(widths[0]), *cells[1:]]


def report(rows: Sequence[Row]) -> int:
    """Print the table; 1 if a limit was missed."""
    print(f"\n{table(rows)}")
    return int(any(row.status == "MISSED" for row in rows))


def by_turns(
    candidates: Mapping[str, Callable[[], object]],
    rounds: int = PAIRS,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, list[float]]:
    """Seconds of each candidate in each round; a first round is not counted.

    A busy machine slows every candidate of a round alike. In each round they come in
    another order, as each leaves the caches to the next.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    draw = random.Random(0)
    for turn in range(rounds + 1):
        for name in draw.sample(sorted(candidates), len(candidates)):
            started = clock()
            candidates[name]()
            if turn > 0:
                seconds[name].append(clock() - started)
    return seconds


def ratio(
    name: str,
    one: Sequence[float],
    other: Sequence[float],
    limit: float | None = None,
    *,
    control: Sequence[float] | None = None,
    least: bool = False,
    form: str = ".3f",
) -> Row:
    """The median ratio of what was timed by turns; `control` is `other` once more."""
    ratios = [a / b for a, b in zip(one, other, strict=True)]
    same = [a / b for a, b in zip(control or (), other, strict=bool(control))]
    return Row(
        name,
        statistics.median(ratios),
        limit,
        median_bound(ratios, least=least),
        statistics.median(same) if same else None,
        least,
        form,
    )


def median_bound(ratios: Sequence[float], *, least: bool = False) -> float:
    """The upper 95 % bound of the median, the lower one if `least`, by resampling."""
    draw = random.Random(0)
    medians = sorted(
        statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(2000)
    )
    return medians[100 if least else 1900]


def spent(command: list[str], folder: Path, environment: dict[str, str]) -> float:
    """Processor seconds, user and system, of a program and what it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(command, cwd=folder, env=environment, check=True, **options)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
