"""Writes the goldens again: `python -m tools.make_golden [CASE ...]`.

Scripts, golden values, and the committed course of a training run. Run it by hand
only, and read the difference (`git diff golden/`) before it is committed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from carl_bundle.bundler.render import render
from carl_bundle.recipes import plan
from carl_bundle.spec.freeze import freeze
from carl_bundle.spec.load import load

ROOT = Path(__file__).parent.parent
CASES = sorted(path.parent.name for path in ROOT.glob("golden/*/spec.yaml"))


def rendered(case: str) -> str:
    """The script of one case, as `carl bundle golden/<case>/spec.yaml` prints it."""
    folder = ROOT / "golden" / case
    return render(plan(freeze(load(folder / "spec.yaml").spec)), user_root=folder)


def write(path: Path, text: str) -> None:
    path.write_bytes(text.encode())
    print(f"wrote {path.relative_to(ROOT)}")


def main() -> None:
    from tools.make_fields import FIELDS, fields, loaded
    from tools.make_trajectory import COURSES, trajectory

    for case in sys.argv[1:] or CASES:
        folder = ROOT / "golden" / case
        write(folder / "train.py", rendered(case))
        if case in FIELDS:
            values = fields(loaded(folder / "train.py"))
            write(folder / "fields.json", json.dumps(values, indent=1) + "\n")
        if case in COURSES:
            with tempfile.TemporaryDirectory() as scratch:
                script = [
                    sys.executable,
                    str(folder / "train.py"),
                    "--run-dir",
                    scratch,
                ]
                subprocess.run([*script], check=False)
                course = trajectory(case, Path(scratch) / "metrics.jsonl")
            write(folder / "trajectory.json", json.dumps(course, indent=1) + "\n")


if __name__ == "__main__":
    main()
