"""A replay tells what was recorded from what was not."""

from __future__ import annotations

import copy
import json
import random
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from carl_bundle.runs import RunRecord
from carl_runtime_min.errors import CarlError, UsageError
from carl_runtime_min.replay import chosen_steps, distance, replay, replay_verdict
from carl_runtime_min.run import chain_link, sha256
from tests.runtime.test_resume import StopAt, run_grpo

QUANTITIES = ("batch", "samples", "rewards", "state", "norm", "weights")
Records = dict[int, dict[str, Any]]


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Records, Records]:
    """The records of a run, and of the same run done again."""
    found = []
    for name in ("one", "two"):
        folder = tmp_path_factory.mktemp(name)
        run_grpo(StopAt(folder))
        lines = (folder / "steps.jsonl").read_text().splitlines()
        found.append({one["step"]: one for one in map(json.loads, lines)})
    return folder, found[0], found[1]


def tampered(record: dict[str, Any], quantity: str, draw: random.Random) -> Any:
    """Another value of a quantity; a reward is moved by a little."""
    value = copy.deepcopy(record[quantity])
    if quantity == "rewards":
        row = draw.choice(value)
        column = draw.choice([i for i, x in enumerate(row) if x is not None])
        row[column] += draw.choice((1e-6, -1e-3, 0.5))
        return value
    if quantity == "norm":
        return value * (1 + 1e-12)
    place = draw.randrange(len(value))
    digit = draw.choice([x for x in "0123456789abcdef" if x != value[place]])
    return value[:place] + digit + value[place + 1 :]


def test_every_step_of_a_run_is_recorded_once(twice: Any) -> None:
    _, one, _ = twice
    assert list(one) == list(range(1, 9))
    assert all(set(QUANTITIES) < set(record) for record in one.values())
    assert len({record["batch"] for record in one.values()}) > 1
    assert len({record["weights"] for record in one.values()}) == 8


def test_the_same_run_is_identical_and_each_of_100_changes_is_found(twice: Any) -> None:
    _, one, other = twice
    assert replay_verdict(list(one.values()), other, exact=True) == "IDENTICAL"
    draw = random.Random(0)
    for _ in range(100):
        quantity, step = draw.choice(QUANTITIES), draw.choice(list(one))
        record = {**one[step], quantity: tampered(one[step], quantity, draw)}
        told = replay_verdict(list({**one, step: record}.values()), other, exact=True)
        assert told == f"DIFFERENT: {quantity} of step {step}"


def test_another_machine_may_round_but_not_see_other_samples(twice: Any) -> None:
    _, one, other = twice
    rounded = copy.deepcopy(other)
    rounded[3]["rewards"][0][0] += 1e-5
    rounded[3]["weights"] = "0" * 64
    assert replay_verdict(list(one.values()), rounded, exact=True).startswith(
        "DIFFERENT"
    )
    told = replay_verdict(list(one.values()), rounded, exact=False)
    assert told.startswith("WITHIN TOLERANCE: ")
    assert 0 < float(told.split()[-1]) < 1e-3
    rounded[4]["samples"] = "0" * 64
    told = replay_verdict(list(one.values()), rounded, exact=False)
    assert told == "DIFFERENT: samples of step 4"
    rounded = copy.deepcopy(other)
    rounded[5]["rewards"][0] = [9.0, 9.0]
    told = replay_verdict(list(one.values()), rounded, exact=False)
    assert told == "DIFFERENT: rewards of step 5"
    short = {step: other[step] for step in range(1, 8)}
    told = replay_verdict(list(one.values()), short, exact=False)
    assert told == "DIFFERENT: batch of step 8"


def test_weights_that_only_a_request_to_stop_had_digested_are_not_compared(
    twice: Any,
) -> None:
    _, one, other = twice
    again = {**other, 3: {**other[3], "weights": None}}
    assert replay_verdict(list(one.values()), again, exact=True) == "IDENTICAL"
    again[3]["norm"] += 1.0
    told = replay_verdict(list(one.values()), again, exact=True)
    assert told == "DIFFERENT: norm of step 3"


CONFIG: dict[str, Any] = {"sft": {}, "spec": {}, "model": {"id": "org/model"}}


def options(path: Path, steps: str) -> Namespace:
    return Namespace(run_dir=path, replay=steps, resume="auto", accept_changes=False)


def test_steps_of_another_script_are_not_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checkpoints").mkdir()
    scripts = ["0123456789abcdef", sha256(Path(__file__))]
    lines = [
        {"phase": "sft", "step": step, "script": scripts[step > 1]} for step in (1, 2)
    ]
    (tmp_path / "steps.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    monkeypatch.setattr("sys.argv", [__file__])
    with pytest.raises(UsageError, match="another script ran sft 1") as refused:
        replay(options(tmp_path, "sft:2:2"), CONFIG, ["sft"])
    assert "0123456789ab" in refused.value.remedy


@pytest.mark.parametrize(
    ("code", "stopped", "expected"), [(70, False, 70), (2, False, 2), (85, True, 130)]
)
def test_a_replay_that_does_not_come_to_its_end_gives_no_verdict(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
    stopped: bool,
    expected: int,
) -> None:
    (tmp_path / "checkpoints").mkdir()
    record = {"phase": "sft", "step": 1, "script": sha256(Path(__file__))}
    (tmp_path / "steps.jsonl").write_text(json.dumps(record) + "\n")

    def supervised(command: Any, scratch: Path, *_: Any) -> int:
        if stopped:
            (scratch / "stop").touch()
        return code

    monkeypatch.setattr("carl_runtime_min.replay.supervise", supervised)
    monkeypatch.setattr("sys.argv", [__file__])
    with pytest.raises(CarlError, match="no verdict: sft ended") as caught:
        replay(options(tmp_path, "sft:1:1"), CONFIG, ["sft"])
    assert caught.value.exit_code == expected


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        (2.0, 2.0, 0.0),
        (2.0, 2.2, 0.1),
        ([1.0, None], [1.0, None], 0.0),
        ([1.0, None], [1.0, 1.0], float("inf")),
        ([1.0], [1.0, 2.0], float("inf")),
        ("a", "b", 0.0),
    ],
)
def test_distances_are_relative(one: Any, other: Any, apart: float) -> None:
    assert distance(one, other) == pytest.approx(apart)


@pytest.mark.parametrize("text", ["", "sft", "sft:1", "sft:2:1", "sft:0:1", "eval:1:1"])
def test_what_names_no_steps_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="names no steps") as caught:
        chosen_steps(text, ["sft", "eval"])
    assert "sft:120:124" in caught.value.remedy


def test_lines_are_chained_and_a_changed_one_breaks_it(twice: Any) -> None:
    folder, _, records = twice
    before, numbers = "None", []  # a run without run.json
    for line in (folder / "steps.jsonl").read_text().splitlines():
        record = json.loads(line)
        chain = record.pop("chain")
        before = chain_link(before, record)
        assert chain == before
        numbers.append(record["step"])
        assert chain_link(before, {**record, "norm": 0.0}) != chain
    assert numbers == list(records)
    assert RunRecord(folder, {}).steps() == [("grpo", step) for step in numbers]
