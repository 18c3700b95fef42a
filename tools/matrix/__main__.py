"""`make matrix`: try every model type, then write docs/models.md.

python -m tools.matrix [--shard I/N] [--only TYPE ...] [--sides ours plain]
                       [--seconds 90] [--folder build/matrix] [--log FILE]
                       [--report [--stale]]

What was measured before and still holds is not run again. The page is written when all
types were gone through; `--report` writes it and measures nothing, with `--stale` also
from what was measured before a file of the bundler changed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tools.matrix import cache
from tools.matrix.instance import Case, cases
from tools.matrix.measure import RUNS, SIDES, measure, prepare
from tools.matrix.report import report

PAGE = cache.ROOT / "docs" / "models.md"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shard", default="0/1", help="I/N: cases I, I + N, ...")
    parser.add_argument("--only", nargs="*", default=[], metavar="TYPE")
    parser.add_argument("--sides", nargs="*", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--seconds", type=float, default=90, help="for each type")
    parser.add_argument("--folder", type=Path, default=cache.FOLDER)
    parser.add_argument("--log", type=Path, help="file for the output of what fails")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--stale", action="store_true", help="with --report")
    return parser.parse_args()


def go_through(chosen: list[Case], given: argparse.Namespace) -> None:
    """Measure what is not known yet of these cases."""
    runs = [run for run in RUNS if cache.side(run) in given.sides]
    for case in chosen:
        keys = cache.keys(case)
        known = cache.load(given.folder, case.name, keys)
        wanted = [run for run in runs if run not in known]
        built = known.get("instance", cache.Outcome("runs")).word == "runs"
        if wanted and built:
            known |= measure(case, wanted, given.seconds, given.log)
            cache.store(given.folder, case.name, keys, known)
        words = [f"{run}: {one.word}" for run, one in known.items()]
        print(case.name, *words, sep="  ", flush=True)


def main() -> int:
    given, every = arguments(), cases()
    if not given.report:
        prepare()
        index, count = map(int, given.shard.split("/"))
        chosen = [c for c in every if not given.only or c.model_type in given.only]
        go_through(chosen[index::count], given)
    if given.report or (not given.only and given.shard == "0/1"):
        folder = given.folder
        stale = given.stale
        found = {c: cache.load(folder, c.name, cache.keys(c), stale) for c in every}
        PAGE.write_text(report(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
