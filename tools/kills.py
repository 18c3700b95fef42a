"""`make kills`: a run killed at any moment, and continued, is the run never killed.

python -m tools.kills [--seed N] [--kills N] [--recipe NAME, or all]

A small pipeline, or another method, runs once undisturbed. Then it is killed again and
again, each time in a folder of its own: SIGKILL for all of its processes, at a moment
drawn by the seed. The same command continues it, and what it leaves must be the same to
the last bit.

Every process is a fork of this one, which has imported torch and TRL: that takes longer
than the whole run. Apart from that the script runs as it always does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import psutil

from carl_runtime_min.run import checkpoints, read_json, weights_sha256

STEPS = {
    "max_steps": 12,
    "per_device_train_batch_size": 8,
    "logging_steps": 7,
    "save_steps": 3,
}
SAMPLED = {**STEPS, "num_iterations": 2, "max_completion_length": 48}
REWARDED = {
    "rewards": [{"function": "rewards.py:noted"}],
    "carl": {"cascade": "adaptive", "open_by": 4, "warmup_steps": 4},
}
SPEC = {
    "name": "small",
    "sft": STEPS,
    "gate": {"threshold": 0.02, "window": 6, "min_above": 6},
    "grpo": SAMPLED,
    **REWARDED,
    "eval": {"items": 8},
}
RUINOUS = {  # the model never gets better than after its first steps
    **STEPS,
    **{"max_steps": 24, "learning_rate": 0.5, "save_total_limit": 1},
    **{"lr_scheduler_type": "constant", "warmup_steps": 0},
}


def alone(method: str, **more: Any) -> dict[str, Any]:
    """The spec of one method, on the built-in model."""
    return {"name": "small", "method": method, method: STEPS, **more}


RECIPES = {
    "pipeline": SPEC,
    "sft": alone("sft", gate=SPEC["gate"]),
    "sft, LoRA": alone("sft", lora={"r": 4}),
    "sft, packed": alone("sft", sft={**STEPS, "trainer": {"packing": True}}),
    "sft, streamed": alone("sft", data={"id": "rows.jsonl", "streaming": True}),
    "sft, patience": alone(
        "sft", sft=RUINOUS, eval={"every": 3, "items": 8, "patience": 2}
    ),
    **{name: alone(name) for name in ("dpo", "kto", "orpo")},
    **{name: alone(name, **{name: SAMPLED}, **REWARDED) for name in ("grpo", "rloo")},
}
RUN = Path("runs") / "small"
REWARD = '''"""A task reward that notes when completions are there."""


def noted(completions, **rest):
    with open("generated.txt", "a") as file:
        file.write("x")
    texts = [turns[0]["content"] for turns in completions]
    return [sum(map(str.isdigit, text)) / max(1, len(text)) for text in texts]
'''
ROWS = [{"prompt": str(i), "completion": str(i + 1)} for i in range(40)]
CLOCK = ("runtime", "per_second", "step_time")
DONE = (0, 1, 3)  # an evaluation of so few steps proves nothing
KINDS = {
    "anywhere": "anywhere",
    "generation": "while completions are generated",
    "checkpoint": "while a checkpoint is half written",
    "phase": "between the last step of a phase and what follows",
}


def forked(action: Callable[[], int]) -> int:
    """The id of a new process that does `action` in a session of its own."""
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    code = 70
    try:
        os.setsid()
        code = action()
    except SystemExit as exit:
        code = exit.code if isinstance(exit.code, int) else 2
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


class Phase:
    """What a script's supervisor takes for `Popen` of the script itself."""

    def __init__(self, main: Callable[[], int], command: list[str], env: Any) -> None:
        def action() -> int:
            os.environ.update(env)
            sys.argv = command[1:]
            return main()

        self.pid = forked(action)

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


class Script:
    """A rendered script whose libraries are imported."""

    def __init__(self, folder: Path, spec: dict[str, Any] | None = None) -> None:
        from tests.scripts import load, render
        from tests.tiny import write_jsonl

        folder.mkdir(exist_ok=True)
        (folder / "rewards.py").write_text(REWARD)
        self.rows = write_jsonl(folder / "rows.jsonl", ROWS)
        self.path = render(folder, spec or SPEC)
        self.module: ModuleType = load(self.path)
        self.module.subprocess = SimpleNamespace(  # type: ignore[attr-defined]
            Popen=lambda command, env, **_: Phase(self.module.main, command, env)
        )
        self.module.builtin_model(self.module.builtin_tokenizer(), 0)
        import trl
        from trl.experimental.orpo import ORPOConfig, ORPOTrainer  # noqa: F401

        for method in ("SFT", "GRPO", "RLOO", "DPO", "KTO"):
            getattr(trl, f"{method}Config"), getattr(trl, f"{method}Trainer")

    def start(self, folder: Path) -> psutil.Process:
        """`python train.py` in `folder`."""

        def action() -> int:
            os.chdir(folder)
            log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            sys.argv = [str(self.path), "--accept", "sft"]
            return int(self.module.main())

        folder.mkdir(exist_ok=True)
        shutil.copy(self.rows, folder)
        return psutil.Process(forked(action))


@dataclass
class Seen:
    """How far a run has come, as its files tell."""

    steps: Counter[str]  # by phase
    generated: int  # batches of completions
    phases: int  # that are done
    half: bool  # whether a checkpoint lies there unfinished

    @classmethod
    def of(cls, folder: Path) -> Seen:
        run, steps = folder / RUN, ""
        with contextlib.suppress(OSError):
            steps = (run / "steps.jsonl").read_text()
        noted = folder / "generated.txt"
        made = set(run.glob("checkpoints/*/checkpoint-*[0-9]"))
        whole = [set(checkpoints(p)) for p in run.glob("checkpoints/*") if made]
        return cls(
            Counter(re.findall(r'^\{"phase": "(\w+)"', steps, re.MULTILINE)),
            noted.stat().st_size if noted.exists() else 0,
            len(read_json(run / "phases.json")),
            bool(made - set().union(*whole)),
        )


def kill(process: psutil.Process) -> None:
    """End all processes of a run at once, the supervisor last."""
    process.suspend()
    children = process.children(recursive=True)
    for each in (*children, process):
        each.kill()
    os.waitpid(process.pid, 0)
    psutil.wait_procs(children)


def ended(process: psutil.Process) -> int:
    """The exit code of a run that goes to its end."""
    return os.waitstatus_to_exitcode(os.waitpid(process.pid, 0)[1])


def left(run: Path) -> dict[str, Any]:
    """What is in the directory of a run, but for what a clock says."""
    found: dict[str, Any] = {"weights": weights_sha256(run / "model")}
    for name in ("summary", "phases"):
        found[name] = read_json(run / f"{name}.json")
    for name in ("samples", "steps", "metrics"):
        path = run / f"{name}.jsonl"  # not each method has samples
        rows = map(json.loads, (path.read_text() if path.exists() else "").splitlines())
        found[name] = [
            {k: v for k, v in row.items() if not any(word in k for word in CLOCK)}
            for row in rows
        ]
    for row in found["metrics"]:
        del row["chain"]  # of lines with the values of the clock
    return found


@dataclass
class Plan:
    """When to kill: `delay` seconds after `begun`, if it is `inside` then."""

    begun: Callable[[Seen], bool]
    delay: float
    inside: Callable[[Seen, Seen], bool]


class Moments:
    """Draws moments of each kind, within a run of `wall` seconds that came to `end`."""

    def __init__(self, seed: int, wall: float, end: Seen) -> None:
        self.random, self.wall, self.end = random.Random(seed), wall, end
        self.names = list(end.steps)

    def anywhere(self) -> Plan:
        delay = self.random.uniform(0, self.wall)
        return Plan(lambda seen: True, delay, lambda then, now: True)

    def generation(self) -> Plan:
        """After an even step, as samples last for two; before they are rewarded."""
        name = self.names[-1]
        step = self.random.randrange(2, self.end.steps[name], 2)
        return Plan(
            lambda seen: seen.steps[name] >= step,
            self.random.uniform(0, 0.4),
            lambda then, now: (
                not now.half
                and then == now
                and 2 * now.generated == now.steps[name] == step
            ),
        )

    def checkpoint(self) -> Plan:
        name = self.random.choice(self.names)
        step = self.random.randrange(3, self.end.steps[name] + 1, 3)
        return Plan(
            lambda seen: seen.half and seen.steps[name] >= step,
            self.random.uniform(0, 0.1),
            lambda then, now: now.half,
        )

    def phase(self) -> Plan:
        """From the last step of a phase until the next one has begun for a while."""
        name = self.random.choice(self.names)
        last = name == self.names[-1]
        return Plan(
            lambda seen: seen.steps[name] == self.end.steps[name],
            self.random.uniform(0, 0.3 if len(self.names) == 1 else 1.5),
            lambda then, now: last or not now.steps[self.names[-1]],
        )


def killed(script: Script, folder: Path, plan: Plan) -> Seen | None:
    """Start the script and kill it; what it had done, or None if it was missed."""
    process = script.start(folder)
    try:
        while not plan.begun(then := Seen.of(folder)):
            if process.status() == psutil.STATUS_ZOMBIE:
                return None
            time.sleep(0.001)
        time.sleep(plan.delay)
        alive = process.status() != psutil.STATUS_ZOMBIE
    finally:
        kill(process)
    now = Seen.of(folder)
    return now if alive and plan.inside(then, now) else None


def differing(one: dict[str, Any], other: dict[str, Any]) -> str | None:
    """The first thing that two runs left behind differently."""
    for name, value in one.items():
        again = other[name]
        if isinstance(value, list) and len(value) == len(again):
            for number, (row, same) in enumerate(zip(value, again, strict=True), 1):
                keys = [key for key in row if row[key] != same.get(key)]
                if keys:
                    return f"line {number} of {name}: {', '.join(keys)}"
        if value != again:
            return name
    return None


def attempt(
    script: Script, folder: Path, draw: Callable[[], Plan], wanted: dict[str, Any]
) -> tuple[Seen, str | None]:
    """Kill a run at a moment of a kind, continue it, compare: where, what differs."""
    for number in range(20):
        place = folder.with_name(f"{folder.name}-{number}")
        if seen := killed(script, place, draw()):
            code = ended(script.start(place))
            if code not in DONE:
                return seen, f"exit code {code}, see {place / 'log.txt'}"
            if fault := differing(wanted, left(place / RUN)):
                return seen, f"{fault}, see {place}"
            shutil.rmtree(place)
            return seen, None
    raise RuntimeError("no moment of this kind was met")


def kinds(count: int, samples: bool = True) -> list[str]:
    """What `count` kills are aimed at: half at no place, the rest at some."""
    named = [name for name in list(KINDS)[1:] if samples or name != "generation"]
    named *= max(1, count // 6)
    return ["anywhere"] * (count - len(named)) + named


def trial(folder: Path, seed: int, recipe: str, kills: int) -> Counter[str] | None:
    """Kill once for each aim; how often each left no trace, None if one did."""
    script = Script(folder, RECIPES[recipe])
    begun = time.monotonic()
    code = ended(script.start(folder / "whole"))
    wall = time.monotonic() - begun
    if code not in DONE:
        print((folder / "whole" / "log.txt").read_text())
        return None
    wanted = left(folder / "whole" / RUN)
    moments = Moments(seed, wall, Seen.of(folder / "whole"))
    print(f"{recipe}, undisturbed: {wall:.1f} s, {wanted['summary']}", flush=True)
    counts: Counter[str] = Counter()
    for number, aim in enumerate(kinds(kills, bool(wanted["samples"]))):
        place = folder / f"run-{number}"
        seen, fault = attempt(script, place, getattr(moments, aim), wanted)
        print(f"{number + 1:3} {aim:10} {fault or 'identical'} {seen}", flush=True)
        if fault:
            return None
        counts[aim] += 1
    shutil.rmtree(folder)
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    option = parser.add_argument
    option("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    option("--kills", type=int, default=60, help="of each recipe")
    option("--recipe", default="pipeline", choices=[*RECIPES, "all"])
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and nothing goes on
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # ORPO is experimental
    folder, found = Path(tempfile.mkdtemp(prefix="kills-")), {}
    for recipe in list(RECIPES) if args.recipe == "all" else [args.recipe]:
        found[recipe] = trial(folder / recipe, args.seed, recipe, args.kills)
    print(f"\n| recipe | {' | '.join(KINDS.values())} |")
    print("| --- |" + " ---: |" * len(KINDS))
    for recipe, counts in found.items():
        cells = [str(counts[kind] or "") for kind in KINDS] if counts else ["FAILED"]
        print(f"| {recipe} | {' | '.join(cells)} |")
    if all(found.values()):
        shutil.rmtree(folder)
    return 0 if all(found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
