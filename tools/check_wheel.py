"""`make wheel-check`: the wheel, installed alone, writes the script of the checkout.

Builds the wheel, installs it with its core dependencies in an environment of its own,
and compares what `carl bundle` prints there and here.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
OURS = {"carl_bundle", "carl_runtime_min"}
TRAINING = {"torch", "transformers", "trl", "peft", "accelerate", "datasets"}


def output(*command: str | Path, cwd: Path = ROOT) -> bytes:
    return subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.PIPE).stdout


def build_wheel(folder: Path) -> Path:
    output(sys.executable, "-m", "build", "--wheel", "--outdir", folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


def install_alone(wheel: Path, folder: Path) -> Path:
    """Install the wheel in an environment of its own; return its `bin`."""
    venv.create(folder, with_pip=True)
    constraints = ROOT / "constraints.txt"
    pip = folder / "bin" / "pip"
    output(pip, "install", "--quiet", "-c", constraints, wheel)
    return folder / "bin"


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="wheel-") as name:
        folder = Path(name)
        wheel = build_wheel(folder)
        packages = {
            path.partition("/")[0] for path in zipfile.ZipFile(wheel).namelist()
        }
        there = install_alone(wheel, folder / "venv")
        script = output(there / "carl", "bundle", cwd=folder)
        freeze = output(there / "pip", "freeze").decode().lower().splitlines()
    here = output(Path(sys.executable).parent / "carl", "bundle")
    ast.parse(script)
    ours = {name for name in packages if not name.endswith(".dist-info")}
    checks = {
        "only carl_bundle and carl_runtime_min": ours == OURS,
        "no training library": not {line.split("==")[0] for line in freeze} & TRAINING,
        "the script of the checkout, byte for byte": script == here,
    }
    for what, kept in checks.items():
        print(f"{'ok    ' if kept else 'FAILED'}  {what}")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
