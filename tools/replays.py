"""`make replays`: a replay finds what was changed after a run, and nothing else.

python -m tools.replays [--seed N] [--count N]

A small pipeline runs once. Steps of it, drawn by the seed, are replayed as they are:
each must be IDENTICAL. Then copies of the run are forged, each in one place, and the
steps that it is about are replayed: `carl verify` or the replay must find it. Every
other forger is careful and makes anew the digests that would give him away at once.

Every process is a fork of this one, as in tools/kills.py.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from carl_runtime_min.run import chain_link, read_json, sha256, weights_sha256
from tools.kills import (
    DONE,
    REWARD,
    REWARDED,
    RUN,
    SAMPLED,
    STEPS,
    Phase,
    Script,
    forked,
)

EVERY, LAST = 5, 12  # checkpoints after steps 5, 10 and 12
KEPT = {**STEPS, "save_steps": EVERY, "save_total_limit": 3}
SPEC: dict[str, Any] = {
    "name": "small",
    "sft": {**KEPT, "learning_rate": 0.002},
    "gate": {"threshold": 0.02, "window": LAST, "min_above": LAST},
    "grpo": {**SAMPLED, **KEPT, "learning_rate": 0.0002},
    **REWARDED,
    "eval": {"items": 8},
}
LINES = {  # of the script, by the phase whose maths they are
    "sft": [('"learning_rate": 0.002,', '"learning_rate": 0.0021,')],
    "grpo": [
        ("phi = 1 - entropy.double()", "phi = 1 - 0.99 * entropy.double()"),
        ("str.isdigit", "str.isalpha"),
        ('"learning_rate": 0.0002,', '"learning_rate": 0.00021,'),
    ],
}
SETTINGS = {
    "sft": [("learning_rate", 0.0021), ("per_device_train_batch_size", 7)],
    "grpo": [("learning_rate", 0.00021), ("temperature", 0.95), ("num_generations", 4)],
}


class Forger:
    """Changes a copy of a run; what changes it names the steps to replay.

    A careful one makes anew the chains, and every digest that he knows of.
    """

    def __init__(self, run: Path, careful: bool, draw: random.Random) -> None:
        self.run, self.careful, self.draw = run, careful, draw
        lines = (run / "steps.jsonl").read_text().splitlines()
        self.records: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def reward(self) -> str:
        record = self.record("rewards")
        size = self.draw.choice((-1, 1)) * 10 ** self.draw.uniform(-9, 0)
        self.draw.choice(record["rewards"])[0] += size
        return self.settled(record)

    def digest(self, key: str) -> str:
        record = self.record(key)
        record[key] = self.draw.randbytes(32).hex()
        return self.settled(record)

    def norm(self) -> str:
        record = self.record("norm")
        record["norm"] *= 1 + 10 ** self.draw.uniform(-12, 0)
        return self.settled(record)

    def line(self) -> str:
        """Edit the script by hand."""
        phase = self.draw.choice(list(LINES))
        old, new = self.draw.choice(LINES[phase])
        text = (self.run / "train.py").read_text()
        assert old in text, old
        return self.scripted(text.replace(old, new, 1), phase, old)

    def setting(self) -> str:
        """Put a pristine script of another spec in the place of the one that ran."""
        from tests.scripts import render

        phase = self.draw.choice(list(SETTINGS))
        name, value = self.draw.choice(SETTINGS[phase])
        folder = self.run.parent / "other"
        folder.mkdir()
        (folder / "rewards.py").write_text(REWARD)
        script = render(folder, {**SPEC, phase: {**SPEC[phase], name: value}})
        return self.scripted(script.read_text(), phase, name)

    def scripted(self, text: str, phase: str, change: str) -> str:
        """Leave another script, and choose a step that is made by it.

        A checkpoint brings the learning rate with it, and for one step the samples.
        """
        fresh(self.run / "train.py").write_text(text)
        early = "learning_rate" in change
        own = (
            range(2, EVERY + 1)
            if early
            else [*range(2, EVERY), *range(EVERY + 2, LAST)]
        )
        step = self.draw.choice(own)
        facts, script = read_json(self.run / "run.json"), sha256(self.run / "train.py")
        if self.careful:
            for record in self.records:
                record["script"] = script
            new = {**facts, **identity(self.run / "train.py")}
            fresh(self.run / "run.json").write_text(json.dumps(new))
        return self.settled({"phase": phase, "step": step})

    def checkpoint(self) -> str:
        """Change the weights that a replay starts from."""
        phase = self.draw.choice(["sft", "grpo"])
        saved = self.draw.choice(range(EVERY, LAST, EVERY))
        folder = self.run / "checkpoints" / phase / f"checkpoint-{saved}"
        self.weights(folder, phase, saved)
        step = self.draw.randint(saved + 1, min(saved + EVERY, LAST))
        return self.settled({"phase": phase, "step": step})

    def model(self) -> str:
        """Change the weights that the run ended with."""
        self.weights(self.run / "model", "grpo", LAST)
        if self.careful:
            last = self.run / "checkpoints" / "grpo" / f"checkpoint-{LAST}"
            new = (self.run / "model" / "model.safetensors").read_bytes()
            fresh(last / "model.safetensors").write_bytes(new)
            told = read_json(self.run / "summary.json")
            told["weights_sha256"] = weights_sha256(self.run / "model")
            fresh(self.run / "summary.json").write_text(json.dumps(told))
        return self.settled({"phase": "grpo", "step": LAST})

    def weights(self, folder: Path, phase: str, step: int) -> None:
        """Change one weight of a file a little; a careful forger digests it anew."""
        from safetensors.torch import load_file, save_file

        from carl_runtime_min.steps import digest

        tensors = load_file(folder / "model.safetensors")
        flat = tensors[self.draw.choice(sorted(tensors))].view(-1)
        places = flat.nonzero().flatten().tolist()
        flat[self.draw.choice(places)] *= 1 + 10 ** self.draw.uniform(-6, 0)
        save_file(tensors, fresh(folder / "model.safetensors"), {"format": "pt"})
        for record in self.records if self.careful else ():
            if (record["phase"], record["step"]) == (phase, step):
                record["weights"] = digest(tensors)

    def record(self, key: str) -> dict[str, Any]:
        """A record that says something of `key`."""
        return self.draw.choice([one for one in self.records if one[key] is not None])

    def settled(self, record: dict[str, Any]) -> str:
        """Write the records; the step to replay."""
        before = sha256(self.run / "train.py")
        ends = {}
        for path in self.run.glob("*.jsonl"):
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            rows = self.records if path.stem == "steps" else rows
            chain = before
            for row in rows if self.careful else ():
                row.pop("chain")
                chain = row["chain"] = chain_link(chain, row)
            text = "".join(json.dumps(row) + "\n" for row in rows)
            fresh(path).write_text(text)
            ends[path.stem] = chain
        if self.careful:
            fresh(self.run / "records.json").write_text(json.dumps(ends))
        return f"{record['phase']}:{record['step']}:{record['step']}"


KINDS: dict[str, Callable[[Forger], str]] = {
    "a reward": Forger.reward,
    "the digest of a batch": lambda forger: forger.digest("batch"),
    "the digest of samples": lambda forger: forger.digest("samples"),
    "the digest of gate and cascade": lambda forger: forger.digest("state"),
    "the digest of weights": lambda forger: forger.digest("weights"),
    "the norm of weights": Forger.norm,
    "a line of the script": Forger.line,
    "a setting, the script rendered anew": Forger.setting,
    "a weight of the checkpoint before": Forger.checkpoint,
    "a weight of the final model": Forger.model,
}


def fresh(path: Path) -> Path:
    """A place to write to: what was there is a link to the file of the original."""
    path.unlink(missing_ok=True)
    return path


def identity(script: Path) -> dict[str, Any]:
    """What run.json says of a script."""
    from tests.scripts import load

    module = load(script)
    with mock.patch.object(sys, "argv", [str(script)]):
        return dict(module.identity(module.CONFIG, ["sft", "grpo", "eval"]))


def replayed(run: Path, steps: str) -> tuple[int, str]:
    """Exit code of `python train.py --replay STEPS` in a run, and what it says."""
    from tests.scripts import load

    log = run.with_name("log.txt")

    def action() -> int:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        module = load(run / "train.py")
        module.subprocess = SimpleNamespace(  # type: ignore[attr-defined]
            Popen=lambda command, env, **_: Phase(module.main, command, env)
        )
        command = [run / "train.py", "--run-dir", run, "--replay", steps]
        sys.argv = list(map(str, command))
        return int(module.main())

    code = os.waitstatus_to_exitcode(os.waitpid(forked(action), 0)[1])
    told = [x for x in log.read_text().splitlines() if x[:6] in ("replay", "error:")]
    return code, told[-1] if told else f"see {log}"


def honest(run: Path, draw: random.Random, count: int) -> int:
    """Replay steps as they are recorded; how many are not IDENTICAL."""
    alarms = 0
    distances: Counter[tuple[str, int]] = Counter()
    for number in range(1, count + 1):
        phase = draw.choice(["sft", "grpo"])
        first = draw.randint(1, LAST)
        last = min(LAST, first + draw.randint(0, 2))
        code, told = replayed(run, f"{phase}:{first}:{last}")
        alarm = code != 0 or "IDENTICAL" not in told
        alarms += alarm
        distances[phase, (first - 1) % EVERY] += 1
        print(f"{number:3} {phase}:{first}:{last}  {told}", flush=True)
    print("\n| honest replays that begin | SFT | GRPO |\n| --- | ---: | ---: |")
    for far in range(EVERY):
        counts = " | ".join(str(distances[phase, far]) for phase in ("sft", "grpo"))
        print(f"| {far} steps after a checkpoint or the start | {counts} |")
    print(f"\nfalse alarms: {alarms} of {count}\n", flush=True)
    return alarms


def forged(run: Path, draw: random.Random, count: int) -> int:
    """Forge copies of a run; how many forgeries nothing finds."""
    from carl_bundle.runs import RunRecord

    found: Counter[tuple[str, bool, str]] = Counter()
    names = list(KINDS)
    for number in range(count):
        name, careful = names[number % len(names)], number // len(names) % 2 == 1
        copy = run.parent.parent / f"forged-{number}" / "run"
        shutil.copytree(run, copy, copy_function=os.link)
        steps = KINDS[name](Forger(copy, careful, draw))
        faults = RunRecord.read(copy).faults()
        code, told = replayed(copy, steps)
        by = [who for who, saw in (("verify", faults), ("replay", code)) if saw]
        found.update([(name, careful, who) for who in ("tried", *by)])
        found[name, careful, "found"] += bool(by)
        shown = f"{'careful' if careful else 'naive':7} {steps:10} {told}"
        shown += f"; verify: {faults[0] if faults else 'PRISTINE'}"
        print(f"{number + 1:3} {name:36}{shown}", flush=True)
        if by:
            shutil.rmtree(copy.parent)
    columns = ("tried", "verify", "replay", "found")
    print("\n| changed | forger | forged | `carl verify` | replay | found |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for name in names:
        for careful, who in ((False, "naive"), (True, "careful")):
            counts = " | ".join(str(found[name, careful, what]) for what in columns)
            print(f"| {name} | {who} | {counts} |")
    total = sum(n for (*_, what), n in found.items() if what == "found")
    print(f"\nforgeries found: {total} of {count}")
    return count - total


def trial(folder: Path, seed: int, count: int) -> int:
    """0 if no honest replay raises an alarm and every forgery is found."""
    from carl_bundle.runs import RunRecord

    script = Script(folder / "source", SPEC)
    whole = folder / "whole"
    status = os.waitpid(script.start(whole).pid, 0)[1]
    if os.waitstatus_to_exitcode(status) not in DONE:
        print((whole / "log.txt").read_text())
        return 1
    draw, run = random.Random(seed), whole / RUN
    missed = honest(run, draw, count) + forged(run, draw, count)
    if faults := RunRecord.read(run).faults():  # what it found then proves nothing
        print(f"carl verify finds fault with the run itself: {faults}")
        return 1
    if not missed:
        shutil.rmtree(folder)
    return int(missed > 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--seed", type=int, default=random.SystemRandom().getrandbits(32)
    )
    parser.add_argument("--count", type=int, default=100)
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="replays-"))
    return trial(folder, args.seed, args.count)


if __name__ == "__main__":
    sys.exit(main())
