"""From the command line to the phases: one parent, one fresh process per phase."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
import traceback
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from carl_runtime_min.errors import CarlError
from carl_runtime_min.run import RunDir, claim, file_sha256, read_json, write_json
from carl_runtime_min.supervisor import (
    StopRequest,
    end_with_supervisor,
    supervise,
    worker_command,
)

LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")


def parse_arguments(description: str, default: str) -> argparse.Namespace:
    """The command line of a script."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run-dir", type=Path, default=Path(default))
    parser.add_argument("--resume", default="auto", help="auto, never, or a checkpoint")
    parser.add_argument("--dry-run", action="store_true", help="print the plan only")
    parser.add_argument("--self-test", action="store_true", help="check the arithmetic")
    parser.add_argument("--phase", help=argparse.SUPPRESS)
    return parser.parse_args()


def identity(script: Path, config: dict[str, Any]) -> dict[str, Any]:
    """What must be the same when a run continues, the most telling first."""
    blocks = [block for block in config.values() if isinstance(block, dict)]
    sources = [block["data"] for block in blocks if "data" in block]
    files = [Path(source["id"]) for source in sources]
    spec = json.dumps(config["spec"], sort_keys=True, separators=(",", ":"))
    return {
        "world_size": int(os.environ.get("WORLD_SIZE", 0))
        or max(1, torch.cuda.device_count()),
        "data": [
            file_sha256(path) if path.is_file() else source.get("revision")
            for path, source in zip(files, sources, strict=True)
        ],
        "spec_sha256": hashlib.sha256(spec.encode()).hexdigest(),
        "script_sha256": file_sha256(script),
    }


def lead(args: argparse.Namespace, config: dict[str, Any], phases: list[str]) -> int:
    """Run the phases that are not done yet, each in a process of its own."""
    script, path = Path(sys.argv[0]).resolve(), args.run_dir.resolve()
    facts = identity(script, config)
    lock = claim(path, facts, args.resume)
    cuda = torch.cuda.is_available()
    record = {
        **facts,
        "seed": config["seed"],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in LIBRARIES},
        "hardware": torch.cuda.get_device_name() if cuda else platform.processor(),
        "resume": "from the last complete checkpoint; exact on one CPU machine when "
        "checkpoints lie between generations, else approximate",
    }
    write_json(path / "run.json", record)
    for phase in phases:
        done = (read_json(path / "phases.json") or {}).get(phase)
        if done is None:
            command = worker_command(str(script), phase, sys.argv[1:])
            done = supervise(command, path, lock)
        if done != 0:
            return done
    return 0


def work(
    args: argparse.Namespace, phase: Callable[[RunDir, StopRequest], int]
) -> int:
    """Run one phase in this process and leave its exit code in the run directory."""
    end_with_supervisor()
    rank, path = int(os.environ.get("RANK", 0)), args.run_dir.resolve()
    run, stop = RunDir(path, args.phase, rank, args.resume), StopRequest()
    code = guarded(lambda: phase(run, stop))
    if rank == 0:
        if code in (0, 1, 3):
            phases = read_json(path / "phases.json") or {}
            write_json(path / "phases.json", {**phases, args.phase: code})
        write_json(path / "exit.json", {"code": code, "phase": args.phase})
    return code


def guarded(action: Callable[[], int]) -> int:
    """Run `action`; turn an error made for people into its message and exit code."""
    try:
        return action()
    except CarlError as error:
        message, remedy, code = str(error), error.remedy, error.exit_code
    except OSError as error:
        message, code = f"{error.strerror or error}: {error.filename or 'disk'}", 4
        remedy = "free the space or grant the access, then run the same command again"
    except Exception:
        traceback.print_exc()
        return 70
    print(f"error: {message}", f"  fix: {remedy}", sep="\n", file=sys.stderr)
    return code
