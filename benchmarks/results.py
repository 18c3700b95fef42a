"""A run's rows on disk, with the hardware that they depend on."""

from __future__ import annotations

import json
import os
import platform
import re
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.measure import Row

PACKAGES = ("torch", "transformers", "trl", "accelerate", "numpy")


def hardware() -> dict[str, Any]:
    """Processor, cores, GPU and the packages that do the work."""
    import torch

    cpuinfo, gpu = Path("/proc/cpuinfo"), None  # Linux; elsewhere what Python knows
    told = cpuinfo.read_text() if cpuinfo.is_file() else ""
    names = re.findall(r"^model name\s*: (.*)$", told, re.MULTILINE)
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_name()
    return {
        "processor": (names or [platform.processor() or platform.machine()])[0],
        "cores": os.cpu_count(),
        "gpu": gpu,
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


def keep(rows: list[Row], machine: dict[str, Any], folder: Path) -> Path:
    """Write rows to a file named after the machine."""
    name = machine["gpu"] or f"{machine['processor']} {machine['cores']} cores"
    path = folder / f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.json"
    path.parent.mkdir(exist_ok=True)
    told = [{**asdict(row), "status": row.status} for row in rows]
    path.write_text(json.dumps({"hardware": machine, "rows": told}, indent=2) + "\n")
    return path
