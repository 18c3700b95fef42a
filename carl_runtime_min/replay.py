"""Recorded steps, run again from the checkpoint before them, and compared."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from carl_runtime_min.entry import ENDS, MACHINE, claim, identity, surroundings
from carl_runtime_min.errors import CarlError, UsageError
from carl_runtime_min.run import (
    Run,
    checkpoints,
    read_json,
    weights_sha256,
    write_json,
)
from carl_runtime_min.supervisor import supervise

EXACT = ("batch", "samples", "state")
ROUNDED = ("rewards", "norm", "weights")  # what another machine may round otherwise
SIMILAR = 1e-3


def replay(args: argparse.Namespace, config: dict[str, Any], phases: list[str]) -> int:
    """Run steps A to B of PHASE:A:B again: 0 if they are as recorded, 1 if not."""
    path, facts = args.run_dir.resolve(), identity(config, phases)
    name, first, last = chosen_steps(args.replay, phases)
    recorded, scratch = recorded_steps(path, name), path / "replay"
    for step in range(first, last + 1):
        if step not in recorded:
            remedy = f"choose steps in {path / 'steps.jsonl'}"
            raise UsageError(f"{name} has no record of step {step}", remedy=remedy)
    lock = claim(path, facts, args)  # nothing else may write there meanwhile
    shutil.rmtree(scratch, ignore_errors=True)
    for step in range(prepare(path, scratch, name, first), last + 1):
        if (script := recorded.get(step, {}).get("script")) != facts["script_sha256"]:
            remedy = f"use the script {str(script)[:12]} of {path}, or other steps"
            raise UsageError(f"another script ran {name} {step}", remedy=remedy)
    write_json(scratch / "run.json", facts)
    own = ["--run-dir", str(scratch), "--until", str(last), "--phase", name]
    code = supervise([*sys.argv, *own], scratch, lock, facts["world_size"])
    os.close(lock)
    if (stopped := (scratch / "stop").exists()) or code not in ENDS:
        reason = f"no verdict: {name} ended with code {code}"
        remedy = "run the replay again" if stopped else "mend what its error names"
        raise CarlError(reason, remedy=remedy, exit_code=130 if stopped else code)
    run, here = read_json(path / "run.json"), surroundings(config)
    same = not run["moved"] and all(run[key] == here[key] for key in MACHINE)
    exact = same and not torch.cuda.is_available()
    wanted = [recorded[step] for step in range(first, last + 1)]
    told = replay_verdict(wanted, recorded_steps(scratch, name), exact)
    models = [folder / config[name]["result"] for folder in (path, scratch)]
    best = config[name]["trainer"].get("load_best_model_at_end")  # of all steps
    left = exact and not best and models[1].is_dir()  # by the last step of a phase
    if left and len(set(map(weights_sha256, models))) > 1:
        told = f"DIFFERENT: weights in {models[0]}"
    print(f"replay: {told}, steps {first} to {last} of {name}, on {here['hardware']}")
    if told.startswith("DIFFERENT"):
        return 1
    shutil.rmtree(scratch)
    return 0


def replay_verdict(
    recorded: list[dict[str, Any]], again: dict[int, dict[str, Any]], exact: bool
) -> str:
    """IDENTICAL, WITHIN TOLERANCE or DIFFERENT, with the first quantity that differs.

    `exact`: the machine is one that repeats every rounding.
    """
    gap = 0.0
    for one in recorded:
        other = again.get(one["step"], {})
        pairs = {key: (one.get(key), other.get(key)) for key in EXACT + ROUNDED}
        if other and other["weights"] is None:  # of many only at some steps
            del pairs["weights"]
        differing = [key for key, (then, now) in pairs.items() if then != now]
        gap = max([gap, *(distance(*pairs[key]) for key in differing)])
        if differing and (exact or differing[0] in EXACT or not gap <= SIMILAR):
            return f"DIFFERENT: {differing[0]} of step {one['step']}"
        gap = max(gap, 1e-16 * bool(differing))
    return f"WITHIN TOLERANCE: {gap:.1e}" if gap else "IDENTICAL"


def chosen_steps(text: str, phases: list[str]) -> tuple[str, int, int]:
    """The phase and the steps of "PHASE:A:B"."""
    name, _, numbers = text.partition(":")
    first, _, last = numbers.partition(":")
    wrong = name not in phases or name in ("eval", "push")
    if wrong or not (
        first.isdigit() and last.isdigit() and 0 < int(first) <= int(last)
    ):
        remedy = "write PHASE:A:B, as in sft:120:124"
        raise UsageError(f"{text!r} names no steps", remedy=remedy)
    return name, int(first), int(last)


def recorded_steps(path: Path, phase: str) -> dict[int, dict[str, Any]]:
    """The records of the steps of a phase."""
    records = Run(path, phase, "auto").records("steps")
    return {one["step"]: one for one in records if one["phase"] == phase}


def prepare(path: Path, scratch: Path, phase: str, first: int) -> int:
    """What the phase starts from: earlier results, the checkpoint before `first`.

    The number of the step after that checkpoint.
    """
    own = path / "checkpoints" / phase
    states = checkpoints(own)
    before = [p for p in states if states[p]["global_step"] < first]
    nearest = max(before, key=lambda p: states[p]["global_step"], default=None)
    scratch.mkdir()
    for folder in (path / "checkpoints").iterdir():
        if folder != own:
            target = scratch / "checkpoints" / folder.name
            shutil.copytree(folder, target, copy_function=os.link)
    if nearest:
        target = scratch / "checkpoints" / phase / nearest.name
        shutil.copytree(nearest, target, copy_function=os.link)
    return 1 + (states[nearest]["global_step"] if nearest else 0)


def distance(one: Any, other: Any) -> float:
    """How far two quantities are apart, relative to the first; of digests, nothing."""
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max(
            (distance(a, b) for a, b in zip(one, other, strict=True)), default=0.0
        )
    numbers = isinstance(one, float) and isinstance(other, float)
    if not numbers:
        return 0.0 if isinstance(one, str) or one == other else float("inf")
    return float(abs(one - other) / max(abs(one), 1e-9))
