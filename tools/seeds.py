"""`make seeds`: the embedded default with several seeds, as the table of the docs.

python -m tools.seeds [SEED ...]     one run after the other, about a minute and a half
                                     each; a seed that is done is not run again
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "build" / "seeds"
SEEDS = range(10)
OUTCOMES = (0, 1, 3)  # PASS, FAIL, INCONCLUSIVE


def run(seed: int) -> dict[str, Any]:
    """Train with one seed; the result is kept beside the run."""
    carl = Path(sys.executable).parent / "carl"
    script = subprocess.check_output([carl, "bundle", "--seed", str(seed)])
    digest = hashlib.sha256(script).hexdigest()
    folder = FOLDER / digest[:16]
    kept = folder / "result.json"
    if kept.is_file():
        result: dict[str, Any] = json.loads(kept.read_text())
        return result
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.py").write_bytes(script)
    command = [sys.executable, "train.py", "--run-dir", "run"]
    started = time.monotonic()
    with (folder / "output.txt").open("w") as output:
        child = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)
        _, status, usage = os.wait4(child.pid, 0)
    times = {"wall": time.monotonic() - started, "cpu": usage.ru_utime + usage.ru_stime}
    code = os.waitstatus_to_exitcode(status)
    if code not in OUTCOMES:
        sys.exit(f"seed {seed}: exit code {code}, see {output.name}")
    summary = json.loads((folder / "run" / "summary.json").read_text())
    result = {"seed": seed, "code": code, **times, **summary}
    kept.write_text(json.dumps(result))
    return result


def row(result: dict[str, Any]) -> str:
    """One line of the table."""
    found = result.get("evaluation") or {}
    cells = [
        result["seed"],
        result["gate_step"],
        f"{found['before']:.3f}" if found else "-",
        f"{found['after']:.3f}" if found else "-",
        f"{found['p_value']:.0e}" if found else "-",
        result.get("cascade_step"),
        found.get("verdict", "gate not fired"),
        f"{result['wall']:.0f} s",
        f"{result['cpu']:.0f} s",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> int:
    seeds = [int(text) for text in sys.argv[1:]] or SEEDS
    print(
        "| seed | gate step | before | after | p | CARL from | verdict | wall | CPU |"
    )
    print("| ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: |")
    passed = 0
    for seed in seeds:
        result = run(seed)
        passed += result["code"] == 0
        print(row(result), flush=True)
    print(f"\n{passed} of {len(seeds)} passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
