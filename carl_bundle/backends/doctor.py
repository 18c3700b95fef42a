"""What jobs need, here and where they run, looked at before one is lost without."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carl_bundle.errors import CarlError
from carl_bundle.jobs.submission import KNOWN_SECRETS

SKEW = 60.0
"""Seconds that clocks may differ before the times that are shown mislead."""

ROOM = 20 << 30
"""Bytes below which a host is called full: a torch for GPUs alone takes a third."""

SHARED = ("nfs", "cifs", "smb", "fuse.sshfs", "lustre", "beegfs", "gpfs", "afs")
"""File systems on which several machines may write to one SQLite file."""

SLURM = ("sbatch", "squeue", "scancel", "scontrol")

KEYS = {"hf": "HF_TOKEN", "runpod": "RUNPOD_API_KEY", "prime": "PRIME_API_KEY"}
"""The credential that a backend cannot do without."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        state: "ok", "missing" (jobs will fail), or "warning" (some may).
        found: What there is.
        remedy: What to do about it.
    """

    name: str
    state: str
    found: str
    remedy: str = ""


def check(name: str, good: object, found: str, remedy: str, need: bool = True) -> Check:
    """A check whose remedy is told if it is not good."""
    if good:
        return Check(name, "ok", found)
    return Check(name, "missing" if need else "warning", found, remedy)


def here(state: Path, backend: str, reached_by: tuple[str, ...] = ()) -> list[Check]:
    """What this machine has: credentials, programs, a place for records.

    Args:
        state: Where records are kept.
        backend: The name of the backend that jobs are meant for.
        reached_by: The programs that it is reached by.
    """
    programs = [tool(name, shutil.which(name)) for name in reached_by]
    return [*credentials(KEYS.get(backend)), *programs, *records(state)]


def credentials(needed: str | None) -> list[Check]:
    """Which are there, by name. The hub's may lie in a file of its own."""
    from huggingface_hub import get_token

    known = dict.fromkeys((*KNOWN_SECRETS, *KEYS.values()))
    names = [name for name in known if os.environ.get(name)]
    if "HF_TOKEN" not in names and get_token():
        names.insert(0, "HF_TOKEN")
    found = ", ".join(names) or "none"
    good = needed is None or needed in names
    return [check("credentials", good, found, f"export {needed}=...")]


def records(state: Path) -> list[Check]:
    """Whether records can be kept in a folder."""
    place = next(one for one in (state, *state.parents) if one.exists())
    kind, free = file_system(place), shutil.disk_usage(place).free
    writes = os.access(place, os.W_OK)
    other = "set XDG_STATE_HOME to a folder of"
    return [
        check("records", writes, str(state), f"{other} yours"),
        check(
            "on a disk",
            not kind.startswith(SHARED),
            kind or "unknown",
            f"{other} this machine: over a network, SQLite can lose records",
            need=False,
        ),
        check("with space", free > 1 << 20, size(free), "free some space"),
    ]


def file_system(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """The type of the file system that a path lies on, "" where nobody says."""
    lines = mounts.read_text().splitlines() if mounts.exists() else []
    found: dict[str, str] = {}
    for line in lines:
        before, _, after = line.partition(" - ")
        found[before.split()[4].replace("\\040", " ")] = after.split()[0]
    real = path.resolve()
    kinds = (found.get(str(one)) for one in (real, *real.parents))
    return next((kind for kind in kinds if kind), "")


def tool(name: str, path: str | None, remedy: str = "") -> Check:
    """A program that is needed on the PATH."""
    remedy = remedy or f"install {name}, or put its folder on the PATH"
    return check(name, path, path or "not on the PATH", remedy)


def size(count: float) -> str:
    return f"{count / (1 << 30):.1f} GiB free"


UV = "install uv there, for shells that ask nothing; or give --python to carl train"
BOX = "install bubblewrap 0.8 or later, and allow user namespaces"
PYTHON = "install Python 3.8 or later there, as python3: the runner needs it"
QUEUE = "see that the controller runs, and that slurm.conf or SLURM_CONF names it"
CLOCK = "set it by NTP: the times that carl shows are those of the host"


def host(ask: Callable[[], Mapping[str, Any]], slurm: bool, uv: bool) -> list[Check]:
    """What a host says that it has.

    Args:
        ask: Has the host looked at, by `probe` of the runner.
        slurm: Whether Slurm is to start jobs there.
        uv: Whether jobs are started by `uv run` there.
    """
    asked = time.time()
    try:
        said = ask()
    except CarlError as error:
        return [unreachable(error)]
    half = (time.time() - asked) / 2
    ahead, free, fault = said["time"] - asked - half, said["free"], said["sandbox"]
    version = tuple(map(int, said["python"].split(".")[:2]))
    programs = [*["uv"] * uv, *SLURM * slurm]
    box = "bubblewrap works" if fault is None else f"only environments need it: {fault}"
    return [
        Check("host", "ok", said["name"]),
        check("python3", version >= (3, 8), said["python"], PYTHON),
        *(tool(one, said["tools"][one], UV * (one == "uv")) for one in programs),
        *[
            check(
                "queue", "is UP" in said["queue"], said["queue"].splitlines()[-1], QUEUE
            )
        ]
        * slurm,
        check("folder", said["writable"], said["folder"], "allow writing there"),
        check("disk", free >= ROOM, size(free), "free some space there", need=False),
        check("clock", abs(ahead) <= SKEW + half, f"{ahead:+.1f} s", CLOCK, need=False),
        check("sandbox", fault is None, box, BOX, need=False),
        Check("GPUs", "ok", ", ".join(said["gpus"]) or "none seen"),
    ]


def unreachable(error: CarlError) -> Check:
    """What it means that a host could not be asked."""
    said, remedy = str(error), error.remedy
    if "python3" in said and "not found" in said:
        remedy = "install Python 3.8 or later there, as python3"
    elif "SyntaxError" in said:
        remedy = "its python3 is too old: install 3.8 or later there"
    elif "Host key verification failed" in said:
        remedy = "connect once by hand with `ssh`, and compare the key that it shows"
    elif remedy.startswith("try again"):
        remedy = "see that `ssh` reaches it: name, port, network, VPN"
    return Check("host", "missing", said, remedy)
