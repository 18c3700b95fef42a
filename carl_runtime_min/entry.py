"""From the command line to the phases: one parent, one fresh process per phase."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
import traceback
import warnings
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

from carl_runtime_min.errors import CarlError, UsageError
from carl_runtime_min.run import RunDir, claim, file_sha256, read_json, write_json
from carl_runtime_min.supervisor import StopRequest, supervise

SETTINGS = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}
LIBRARIES = {"torch", "transformers", "trl", "peft", "accelerate", "datasets"}


def parse_arguments(
    description: str | None, run_dir: str, phases: list[str]
) -> argparse.Namespace:
    """The command line of a script; it also keeps libraries from reporting home."""
    os.environ.update(SETTINGS)
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        description=description, formatter_class=as_written
    )
    parser.add_argument("--run-dir", type=Path, default=Path(run_dir))
    parser.add_argument("--resume", default="auto", help="auto, never, or a checkpoint")
    parser.add_argument("--accept", action="append", default=[], metavar="PHASE")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--self-test", action="store_true")
    parser.add_argument("--phase", choices=phases, help="run it alone, in this process")
    return parser.parse_args()


def identity(config: dict[str, Any]) -> dict[str, Any]:
    """What must be the same when a run continues, the most telling first."""
    blocks = [config[phase] for phase in ("sft", "grpo", "eval") if phase in config]
    sources = [block["data"] for block in blocks]
    files = {one["id"]: Path(one["id"]) for one in sources if Path(one["id"]).is_file()}
    spec = json.dumps(config["spec"], sort_keys=True, separators=(",", ":"))
    return {
        "world_size": max(1, torch.cuda.device_count()),
        "data_revision": [one["revision"] for one in sources],
        "data_sha256": {name: file_sha256(path) for name, path in files.items()},
        "spec_sha256": hashlib.sha256(spec.encode()).hexdigest(),
        "script_sha256": file_sha256(Path(sys.argv[0])),
    }


def lead(args: argparse.Namespace, config: dict[str, Any], phases: list[str]) -> int:
    """Run the phases that are not done yet, each in a process of its own."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        remedy = "start it with plain python: it starts torchrun on all visible GPUs"
        raise UsageError("this script was started by a launcher", remedy=remedy)
    path, record, cuda = args.run_dir.resolve(), identity(config), torch.cuda
    lock = claim(path, record, args.resume)
    gpu = cuda.is_available() and cuda.get_device_name()
    record["hardware"] = gpu or f"{platform.machine()}, {os.cpu_count()} cores"
    record["versions"] = {
        one.name: one.version for one in distributions() if one.name in LIBRARIES
    }
    record["resume"] = "exact between generations on one CPU machine, else approximate"
    write_json(path / "run.json", {**record, "seed": config["seed"]})
    for phase in phases:
        code = (read_json(path / "phases.json") or {}).get(phase)
        if code is None:
            processes = 1 if phase in ("eval", "push") else record["world_size"]
            code = supervise([*sys.argv, "--phase", phase], path, lock, processes)
        if code != 0 and not (code in (1, 3) and phase in args.accept):
            print(f"{phase}: ended with code {code}", file=sys.stderr)
            return code
    return 0


def work(args: argparse.Namespace, phase: Callable[[RunDir, StopRequest], int]) -> int:
    """Run one phase in this process; leave its exit code in the run directory."""
    warnings.simplefilter("ignore", FutureWarning)  # of libraries that are pinned here
    rank, path = int(os.environ.get("RANK", 0)), args.run_dir.resolve()
    run, stop = RunDir(path, args.phase, rank, args.resume), StopRequest()
    code = guarded(lambda: phase(run, stop))
    return guarded(lambda: leave(run, code))


def leave(run: RunDir, code: int) -> int:
    """Record how a phase ended; what is done or has a verdict is not run again."""
    if run.rank == 0:
        phases = read_json(run.path / "phases.json") or {}
        if code in (0, 1, 3):
            write_json(run.path / "phases.json", {**phases, run.phase: code})
        write_json(run.path / "exit.json", {"code": code, "phase": run.phase})
    # torchrun would end rank 0, which may still write, if another rank seemed to fail
    return 0 if run.rank and code in (1, 3, 85) else code


def guarded(action: Callable[[], int]) -> int:
    """Run `action`; turn an error made for people into its message and exit code."""
    try:
        return action()
    except (CarlError, OSError) as error:
        remedy = getattr(
            error, "remedy", "correct the name, grant the access or free the space"
        )
        print(f"error: {error}", f"  fix: {remedy}", sep="\n", file=sys.stderr)
        return getattr(error, "exit_code", 4)
    except Exception:
        traceback.print_exc()
        return 70
