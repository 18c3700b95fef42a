"""`make bench`: every stated limit, in one table.

python -m benchmarks [NAME ...]

Each benchmark runs in a process of its own; `python -m benchmarks.NAME` runs one alone.
A whole run leaves its rows in benchmarks/results/, in a file named after the hardware.
Exits 1 if a limit is missed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from math import nan
from pathlib import Path

from benchmarks.measure import Row, measured, report
from benchmarks.results import hardware, keep

NAMES = (
    *("script_length", "cascade", "field", "rewards", "step", "start", "cli"),
    *("sandbox", "stream", "gpu"),
)
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONWARNINGS": "ignore",
    "TRANSFORMERS_VERBOSITY": "error",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    chosen = parser.parse_args().names
    if unknown := set(chosen) - set(NAMES):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    os.environ.update(ENVIRONMENT)
    rows: list[Row] = []
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, fresh, max_tasks_per_child=1) as process:
        for name in chosen or NAMES:
            print(f"== {name}", flush=True)
            begun = time.monotonic()
            try:
                rows += process.submit(measured, name).result()
            except Exception:
                traceback.print_exc()
                rows.append(Row(f"{name}: failed", nan, 0))
            print(f"   {time.monotonic() - begun:.0f} s", flush=True)
        machine = process.submit(hardware).result()
    code = report(rows)
    print(f"\n{', '.join(f'{key} {value}' for key, value in machine.items())}")
    if not chosen:
        print(f"kept in {keep(rows, machine, Path(__file__).parent / 'results')}")
    return code


if __name__ == "__main__":
    sys.exit(main())
