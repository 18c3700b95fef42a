"""How long a script takes to check itself, beside the import of torch that it needs.

python -m benchmarks.start
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import PAIRS, Row, ratio, report, spent


def rows() -> list[Row]:
    bundle = [sys.executable, "-m", "carl_bundle.cli.app", "bundle"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    torch = [sys.executable, "-c", "import torch"]
    taken: list[list[float]] = []
    with tempfile.TemporaryDirectory() as name:
        folder, script = Path(name), Path(name) / "train.py"
        made = subprocess.run(bundle, check=True, capture_output=True)
        script.write_bytes(made.stdout)
        test = [sys.executable, str(script), "--self-test"]
        for _ in range(PAIRS + 1):
            turn = [spent(c, folder, environment) for c in (test, torch, torch)]
            taken.append(turn)
    ours, bare, again = zip(*taken[1:], strict=True)  # the first one fills caches
    name = "train.py --self-test / import torch"
    return [ratio(name, ours, bare, 2, control=again)]


if __name__ == "__main__":
    sys.exit(report(rows()))
