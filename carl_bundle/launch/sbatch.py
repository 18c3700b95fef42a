"""A batch script for Slurm, on one node or several."""

from __future__ import annotations

import math

from carl_bundle.launch.spec import GRACE, LaunchSpec
from carl_bundle.launch.text import rendered


def sbatch(spec: LaunchSpec, name: str) -> str:
    """The batch script `name`: it goes on by itself after its time limit."""
    minutes = math.ceil(spec.limit / 60) if spec.limit else None
    return rendered("sbatch.jinja", spec, file=name, minutes=minutes, notice=GRACE)
