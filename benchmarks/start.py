"""How long a script takes to check itself, beside the import of torch that it needs.

python -m benchmarks.start
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import conclude, spent

ROUNDS = 7


def main() -> int:
    folder = Path(tempfile.mkdtemp())
    script = folder / "train.py"
    bundle = [sys.executable, "-m", "carl_bundle.cli.app", "bundle"]
    script.write_bytes(subprocess.run(bundle, check=True, capture_output=True).stdout)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    commands = {
        "import torch": [sys.executable, "-c", "import torch"],
        "train.py --self-test": [sys.executable, str(script), "--self-test"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, command in commands.items():
            seconds[name].append(spent(command, folder, environment))
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    for name, taken in medians.items():
        print(f"{name:<24}{taken:6.2f} s")
    ratio = medians["train.py --self-test"] / medians["import torch"]
    return conclude(
        {f"--self-test is {ratio:.2f} imports of torch, below 2": ratio < 2}
    )


if __name__ == "__main__":
    sys.exit(main())
