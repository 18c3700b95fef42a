"""The files of a pack that its user runs: POSIX sh, coreutils, and Python."""

from __future__ import annotations

from collections.abc import Iterable
from shlex import quote

from carl_bundle.packing.snapshots import HUB
from carl_bundle.packing.target import Target

SUMS, MANIFEST, ENVIRONMENT = "SHA256SUMS", "MANIFEST.json", "env.offline"
WHEELS = "wheels"
MADE = ("venv", "cache")
"""Folders that `run.sh` makes, beside the one of the run."""

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "WANDB_MODE": "offline",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "TINKER_TELEMETRY": "0",
    "PIP_CONFIG_FILE": "/dev/null",
    "PIP_NO_INDEX": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PYTHONNOUSERSITE": "1",
}
"""No library looks for a network, reports its use, or takes code from elsewhere."""

PLACES = {
    "HF_HUB_CACHE": HUB,
    "HF_HOME": "cache/huggingface",
    "TRACKIO_DIR": "cache/trackio",
    "WANDB_DIR": "cache",
    "XDG_CACHE_HOME": "cache",
}
"""Folders of the pack that stand for those in the user's home."""


def environment() -> str:
    """What is sourced before anything runs; the working directory is the pack."""
    lines = ["# The environment of this pack: no network. Sourced by run.sh."]
    lines += [f"export {name}={value}" for name, value in OFFLINE.items()]
    lines += [f'export {name}="$PWD/{place}"' for name, place in PLACES.items()]
    return "\n".join([*lines, "unset PYTHONPATH PYTHONHOME PIP_REQUIREMENT", ""])


def run_sh(target: Target) -> str:
    """What installs the wheels, once, and runs the script."""
    return f"""#!/bin/sh
# ./run.sh [ARGUMENTS OF train.py]: without network. PYTHON names another python3.
set -eu
cd "$(dirname "$0")"
. ./{ENVIRONMENT}
mkdir -p cache
PYTHON=${{PYTHON:-python{target.python}}}
lock=$(sha256sum < train.py.lock)
if [ "$lock" != "$(cat venv/lock 2> /dev/null)" ]; then
    "$PYTHON" -c 'import platform, sys
here = sys.implementation.name, sys.version_info[:2], platform.machine()
if here != ("cpython", (3, {target.minor}), "{target.machine}"):
    sys.exit(f"error: this pack is for {target}, and $PYTHON is {{here}}\\n"
             "  fix: name another one: PYTHON=/path/to/python{target.python} ./run.sh")'
    rm -rf venv
    "$PYTHON" -m venv venv
    venv/bin/python -m pip --isolated install --quiet --only-binary :all: --no-deps \\
        --no-index --find-links {WHEELS} --require-hashes -r train.py.lock
    echo "$lock" > venv/lock
fi
exec venv/bin/python train.py "$@"
"""


def job_sbatch() -> str:
    """The same below Slurm; the script itself gets the signal before the limit."""
    return """#!/bin/sh
#SBATCH --signal=B:USR1@90
#SBATCH --open-mode=append
# In the folder of the pack: sbatch --gpus=1 --time=8:00:00 job.sbatch
# 90 seconds before its limit the script writes a checkpoint and ends with code 85; the
# same command goes on from there.
cd "${SLURM_SUBMIT_DIR:-.}" && exec ./run.sh "$@"
"""


def verify_sh(target: Target, made: Iterable[str]) -> str:
    """What finds a file that was changed, lost or added.

    Args:
        target: The default of PYTHON; any Python 3 will do here.
        made: Folders that running the pack makes.
    """
    apart = " ".join(quote(f"{name}/") for name in (*MADE, *made))
    return f"""#!/bin/sh
# ./verify.sh: is every file as it was packed? --run: does it start without network?
set -eu
cd "$(dirname "$0")"
sha256sum --check --quiet --strict {SUMS} || {{
    echo "error: files are not as they were packed" >&2
    exit 1
}}
"${{PYTHON:-python{target.python}}}" -I -c 'import os, sys
with open("{SUMS}", encoding="utf-8") as sums:
    packed = {{line[66:].rstrip("\\n") for line in sums}} | {{"{SUMS}"}}
there = [os.path.normpath(os.path.join(folder, name))
         for folder, folders, files in os.walk(".") for name in folders + files
         if name in files or os.path.islink(os.path.join(folder, name))]
made = tuple(sys.argv[1:])
added = [path for path in there if path not in packed and not path.startswith(made)]
if added:
    sys.exit("error: these files were added: " + ", ".join(sorted(added)))
' {apart}
echo "every file is as it was packed; {SUMS} itself:"
sha256sum {SUMS}
if [ "${{1:-}}" = --run ]; then
    if unshare -n true 2> /dev/null; then
        unshare -n ./run.sh --dry-run
    elif unshare -rn true 2> /dev/null; then
        unshare -rn ./run.sh --dry-run
    else
        echo "error: this machine allows no network namespace (unshare -rn)" >&2
        exit 4
    fi
fi
"""
