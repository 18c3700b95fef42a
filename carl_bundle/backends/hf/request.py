"""What is asked of Hugging Face to have a job run, and the files it is to find."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from carl_bundle.backends.hf.bucket import BUCKET, place
from carl_bundle.backends.protocol import Job
from carl_bundle.errors import UsageError

IMAGE = "ghcr.io/astral-sh/uv:python3.12-bookworm"
HOME = "/data"
LIMIT = 3600.0  # seconds, unless others are named; the server's own are 1800
SAVING = 120.0  # seconds kept at the end of the limit to copy what was made

QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_XET_TELEMETRY_ENABLED": "0",
    "DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
}
"""Variables that turn off usage reports, in the container and here."""


def check(job: Job) -> None:
    """Raise UsageError if a job wants what only a host of its own has."""
    if job.copy or job.seed:
        raise UsageError(
            "a container of Hugging Face has no folder that stays",
            remedy="leave --destination out: carl resume goes on from its bucket",
        )


def requested(job: Job, flavor: str, namespace: str) -> dict[str, Any]:
    """The arguments of `run_job`."""
    from huggingface_hub import Volume

    limit = math.ceil(job.limit or LIMIT)
    name = re.sub(r"[^A-Za-z0-9_-]", "-", PurePosixPath(job.output).name)
    volume = Volume(
        type="bucket",
        source=f"{namespace}/{BUCKET}",
        mount_path=HOME,
        read_only=False,
        path=place(job.key),
    )
    return {
        "image": IMAGE,
        "command": ["python3", "-B", f"{HOME}/guard.py", "1"],
        "env": {**QUIET, **job.environment},
        "secrets": dict(job.secrets),
        "flavor": flavor,
        "timeout": limit,
        "labels": {"carl": job.key, "name": name, "attempt": "1", "limit": str(limit)},
        "volumes": [volume],
        "namespace": namespace,
    }


def body(request: Mapping[str, Any]) -> dict[str, Any]:
    """The body that `run_job` sends, with the values of secrets masked."""
    secrets = dict.fromkeys(request["secrets"], "***")
    return {
        "command": request["command"],
        "arguments": [],
        "environment": request["env"],
        "flavor": request["flavor"],
        **({"secrets": secrets} if secrets else {}),
        "timeoutSeconds": request["timeout"],
        "labels": request["labels"],
        "volumes": [one.to_dict() for one in request["volumes"]],
        "dockerImage": request["image"],
    }


def told(job: Job) -> dict[str, Any]:
    """job.json: the script has to end early enough for the rest to be saved."""
    limit = job.limit or LIMIT
    return {
        "command": list(job.command),
        "links": {},
        "environment": {},
        "limit": max(limit / 2, limit - job.grace - SAVING),
        "grace": job.grace,
        "output": job.output,
        "secrets": sorted(job.secrets),
    }


def content(job: Job) -> dict[str, bytes | Path]:
    """The files of a job by their names in its folder."""
    here = Path(__file__).parent
    own = {"guard.py": here / "guard.py", "runner.py": here.parent / "runner.py"}
    work = {f"work/{name}": what for name, what in job.files.items()}
    return {**own, "job.json": json.dumps(told(job)).encode(), **work}
