"""`make kills`: a run killed at any moment, and continued, is the run never killed.

python -m tools.kills [--seed N] [--kills N]

A small pipeline runs once undisturbed. Then it is killed again and again, each time in
a folder of its own: SIGKILL for all of its processes, at a moment drawn by the seed.
The same command continues it, and what it leaves must be the same to the last bit.

Every process is a fork of this one, which has imported torch and TRL: that takes longer
than the whole pipeline. Apart from that the script runs as it always does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
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

SPEC = {
    "name": "small",
    "sft": {
        "max_steps": 12,
        "per_device_train_batch_size": 8,
        "logging_steps": 7,
        "save_steps": 3,
    },
    "gate": {"threshold": 0.02, "window": 6, "min_above": 6},
    "grpo": {
        "max_steps": 12,
        "per_device_train_batch_size": 8,
        "num_iterations": 2,
        "max_completion_length": 48,
        "logging_steps": 7,
        "save_steps": 3,
    },
    "rewards": [{"function": "rewards.py:noted"}],
    "carl": {"cascade": "adaptive", "open_by": 4, "warmup_steps": 4},
    "eval": {"items": 8},
}
RUN = Path("runs") / "small"
REWARD = '''"""A task reward that notes when completions are there."""


def noted(completions, **rest):
    with open("generated.txt", "a") as file:
        file.write("x")
    texts = [turns[0]["content"] for turns in completions]
    return [sum(map(str.isdigit, text)) / max(1, len(text)) for text in texts]
'''
CLOCK = ("runtime", "per_second", "step_time")
DONE = (0, 1, 3)  # an evaluation of so few steps proves nothing


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

    def __init__(self, folder: Path) -> None:
        from tests.scripts import load, render

        (folder / "rewards.py").write_text(REWARD)
        self.path = render(folder, SPEC)
        self.module: ModuleType = load(self.path)
        self.module.subprocess = SimpleNamespace(  # type: ignore[attr-defined]
            Popen=lambda command, env, **_: Phase(self.module.main, command, env)
        )
        self.module.builtin_model(self.module.builtin_tokenizer(), 0)
        from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer  # noqa: F401

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
        return psutil.Process(forked(action))


@dataclass
class Seen:
    """How far a run has come, as its files tell."""

    sft: int  # steps
    grpo: int
    generated: int  # batches of completions
    phases: int  # that are done
    half: bool  # whether a checkpoint lies there unfinished

    @classmethod
    def of(cls, folder: Path) -> Seen:
        run, steps = folder / RUN, b""
        with contextlib.suppress(OSError):
            steps = (run / "steps.jsonl").read_bytes()
        noted = folder / "generated.txt"
        made = set(run.glob("checkpoints/*/checkpoint-*[0-9]"))
        whole = [set(checkpoints(p)) for p in run.glob("checkpoints/*") if made]
        done = read_json(run / "phases.json")
        return cls(
            steps.count(b'{"phase": "sft"'),
            steps.count(b'{"phase": "grpo"'),
            noted.stat().st_size if noted.exists() else 0,
            len(done),
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
        rows = map(json.loads, (run / f"{name}.jsonl").read_text().splitlines())
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

    def anywhere(self) -> Plan:
        delay = self.random.uniform(0, self.wall)
        return Plan(lambda seen: True, delay, lambda then, now: True)

    def generation(self) -> Plan:
        """After an even step, as samples last for two; before they are rewarded."""
        step = self.random.randrange(2, self.end.grpo, 2)
        return Plan(
            lambda seen: seen.grpo >= step,
            self.random.uniform(0, 0.4),
            lambda then, now: (
                not now.half and then == now and 2 * now.generated == now.grpo == step
            ),
        )

    def checkpoint(self) -> Plan:
        name = self.random.choice(["sft", "grpo"])
        step = self.random.randrange(3, getattr(self.end, name) + 1, 3)
        return Plan(
            lambda seen: seen.half and getattr(seen, name) >= step,
            self.random.uniform(0, 0.1),
            lambda then, now: now.half,
        )

    def phase(self) -> Plan:
        """From the last step of a phase until the next one has begun for a while."""
        name = self.random.choice(["sft", "grpo"])
        return Plan(
            lambda seen: getattr(seen, name) == getattr(self.end, name),
            self.random.uniform(0, 1.5),
            lambda then, now: name == "grpo" or now.grpo == 0,
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


def kinds(count: int) -> list[str]:
    """What `count` kills are aimed at: half at no place, the rest at three."""
    named = ["generation", "checkpoint", "phase"] * max(1, count // 6)
    return ["anywhere"] * (count - len(named)) + named


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--seed", type=int, default=random.SystemRandom().getrandbits(32)
    )
    parser.add_argument("--kills", type=int, default=60)
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and nothing goes on
    return trial(Path(tempfile.mkdtemp(prefix="kills-")), args.seed, kinds(args.kills))


def trial(folder: Path, seed: int, aims: list[str]) -> int:
    """Kill once for each aim; 1 at the first difference."""
    script = Script(folder)
    begun = time.monotonic()
    code = ended(script.start(folder / "whole"))
    wall = time.monotonic() - begun
    if code not in DONE:
        print((folder / "whole" / "log.txt").read_text())
        return 1
    wanted = left(folder / "whole" / RUN)
    moments = Moments(seed, wall, Seen.of(folder / "whole"))
    print(f"undisturbed: {wall:.1f} s, {wanted['summary']}", flush=True)
    counts: Counter[str] = Counter()
    for number, aim in enumerate(aims):
        place = folder / f"run-{number}"
        seen, fault = attempt(script, place, getattr(moments, aim), wanted)
        print(f"{number + 1:3} {aim:10} {fault or 'identical'} {seen}", flush=True)
        if fault:
            return 1
        counts[aim] += 1
    shutil.rmtree(folder)
    print("\n| killed | times | identical |\n| --- | ---: | ---: |")
    for aim, count in counts.items():
        print(f"| {aim} | {count} | {count} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
