"""A run that is stopped anywhere, and goes on, is the run that was never stopped."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from torch.nn.modules.module import register_module_forward_pre_hook

from carl_runtime_min.fit import fit
from carl_runtime_min.gate import PhaseTransitionGate
from carl_runtime_min.grpo import CoherentPolicy, ReusedScores
from carl_runtime_min.preference import ORPOPhi, PreferencePhi
from carl_runtime_min.run import STATE, read_json
from tests import tiny, trainers
from tests.trainers import run_dir

CLOCK = ("runtime", "per_second", "step_time", "chain")  # of lines with a time
UNEVEN = {"logging_steps": 3, "max_steps": 8, "save_steps": 100}
SHARED = {"num_iterations": 2, "gradient_accumulation_steps": 2}
MIXINS = {"DPO": PreferencePhi, "KTO": PreferencePhi, "ORPO": ORPOPhi}


class StopAt:
    """Counts the forwards of a policy, and asks for a stop before one of them."""

    def __init__(self, folder: Path, place: int | None = None) -> None:
        self.folder, self.place, self.count = folder, place, 0

    def __call__(self, trainer: Any, phase: str, parts: Any, *watches: Any) -> bool:
        """Train; the return value says whether it went to the end."""
        hook = register_module_forward_pre_hook(self.hear)
        self.policy, run = trainer.model, run_dir(self.folder, phase)
        try:
            return fit(
                trainer, run, {"result": "model", "non_finite": "stop"}, parts, watches
            )
        finally:
            hook.remove()

    def hear(self, module: Any, *_: Any) -> None:
        self.count += module is self.policy
        if module is self.policy and self.count == self.place:
            (self.folder / "stop").touch()


def run_grpo(
    stop: StopAt, mixin: type = CoherentPolicy, prompts: int = 24, **given: Any
) -> Any:
    options = {"samples_every": 2, "rows": trainers.chats(prompts), **UNEVEN, **given}
    trainer = trainers.grpo(stop.folder, mixin, **options)
    return trainer, stop(trainer, "grpo", {"cascade": trainer.cascade})


def run_sft(stop: StopAt, **given: Any) -> Any:
    gate = PhaseTransitionGate(threshold=2.0)
    trainer, watch = trainers.sft(stop.folder, gate, **(UNEVEN | given))
    return trainer, stop(trainer, "sft", {"gate": gate}, watch)


def run_preference(stop: StopAt, method: str) -> Any:
    rows = []
    for i, row in enumerate(tiny.questions(8)):
        prompt, good, bad = (
            [{"role": role, "content": text}]
            for role, text in (
                ("user", row["prompt"]),
                ("assistant", row["answer"]),
                ("assistant", "no"),
            )
        )
        pair = {"prompt": prompt, "chosen": good, "rejected": bad}
        one = {"prompt": prompt, "completion": (good, bad)[i % 2], "label": i % 2 == 0}
        rows.append(one if method == "KTO" else pair)
    mixin, folder = MIXINS[method], stop.folder
    trainer = trainers.preference(folder, method, rows, mixin, **UNEVEN)
    return trainer, stop(trainer, method.lower(), {})


def told(folder: Path, name: str) -> list[dict[str, Any]]:
    """The records of a run, but for what a clock says."""
    rows = map(json.loads, (folder / f"{name}.jsonl").read_text().splitlines())
    return [
        {k: v for k, v in r.items() if not any(w in k for w in CLOCK)} for r in rows
    ]


class Novelty:
    """A reward that remembers the completions it has seen."""

    __name__ = "novelty"

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, completions: list[Any], **_: Any) -> list[float]:
        texts = [turns[0]["content"][:1] for turns in completions]
        self.seen += texts
        return [1 / self.seen.count(text) for text in texts]

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]


def run_novelty(stop: StopAt) -> Any:
    """A new reward each time: what it has seen comes from the checkpoint."""
    return run_grpo(stop, tasks=(Novelty(),), **SHARED)


CASES = [
    (run_grpo, {}),
    (run_novelty, {}),
    (run_grpo, {"prompts": 4}),  # two steps an epoch
    (run_grpo, SHARED),
    (run_grpo, {**SHARED, "mixin": ReusedScores, "steps_per_generation": 4}),
    (run_grpo, {**SHARED, "mixin": ReusedScores, "method": "RLOO"}),
    (run_sft, {"gradient_accumulation_steps": 2}),
    *((run_preference, {"method": method}) for method in MIXINS),
]


@pytest.mark.parametrize(("train", "given"), CASES)
def test_a_stop_is_heard_at_the_next_forward_and_costs_only_its_step(
    tmp_path: Path, train: Any, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")  # ORPO is experimental
    never = StopAt(tmp_path / "whole")
    plain, done = train(never, **given)
    assert done
    for place in random.Random(0).sample(range(1, never.count + 1), 3):
        stop = StopAt(tmp_path / str(place), place)
        _, done = train(stop, **given)
        assert not done
        assert stop.count == place, "it went on after it had been asked to stop"
        assert not (stop.folder / "model").exists()
        (stop.folder / "stop").unlink()
        resumed, done = train(StopAt(stop.folder), **given)
        assert done
        assert trainers.same_weights(plain.model, resumed.model)
        folders = (stop.folder, never.folder)
        for name in ("metrics", "steps"):
            assert told(stop.folder, name) == told(never.folder, name)
        summaries = [read_json(folder / "summary.json") for folder in folders]
        assert summaries[0] == summaries[1]
        samples = [folder / "samples.jsonl" for folder in folders]
        if samples[1].exists():
            assert samples[0].read_text() == samples[1].read_text()


def test_a_checkpoint_is_on_the_disk_before_an_older_one_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files first, then the one that says that they are whole, then the folders."""
    events: list[tuple[str, Path, bool]] = []
    new = tmp_path / "checkpoints" / "sft" / "checkpoint-2"
    fsync, remove = os.fsync, shutil.rmtree

    def note(event: str, path: Path) -> None:
        events.append((event, path, (new / STATE).exists()))

    def synced(descriptor: int) -> None:
        note("synced", Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    def removed(path: Path, **given: Any) -> None:
        note("removed", path)
        remove(path, **given)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(shutil, "rmtree", removed)
    run_sft(StopAt(tmp_path), max_steps=2, save_steps=1, save_total_limit=1)
    gone = events.index(("removed", new.with_name("checkpoint-1"), True))
    before = [path for event, path, marked in events[:gone] if not marked]
    files = [path for path in new.iterdir() if path.name != STATE]
    assert len(files) > 4
    assert {*files, tmp_path / "steps.jsonl"} <= set(before)
    after = [path for event, path, marked in events[:gone] if marked]
    assert after == [new / STATE, new, new.parent, tmp_path / ".records.json.draft"]
