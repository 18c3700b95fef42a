"""Reporting to services: it happens, and never stands in the way."""

from __future__ import annotations

import logging
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from carl_runtime_min.fit import fit, training_arguments
from carl_runtime_min.tracking import Tracker
from tests import trainers
from tests.trainers import run_dir


def train(folder: Path, trackers: list[Any], **given: Any) -> Any:
    trainer, watch = trainers.sft(folder, max_steps=3, **given)
    run = run_dir(folder, "sft")
    assert fit(
        trainer, run, {"result": "model", "non_finite": "stop"}, {}, [watch], trackers
    )
    assert (folder / "model" / "model.safetensors").is_file()
    return trainer


def test_tensorboard_gets_the_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    run = run_dir(tmp_path, "sft")
    train(tmp_path, [Tracker("tensorboard")])
    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    rows = [row for row in run.records("metrics") if "loss" in row]
    for name in ("loss", "phi", "mean_token_accuracy"):
        found = [event.value for event in events.Scalars(f"train/{name}")]
        assert found == pytest.approx([row[name] for row in rows], rel=1e-5)


class Failing(TrainerCallback):
    """A service that fails at one event, and notes the events that it sees."""

    at, seen = "", list[str]()

    def note(self, name: str) -> None:
        self.seen.append(name)
        if name == self.at:
            raise ConnectionError("the service is down")

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.note("on_train_begin")

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        self.note("on_log")

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self.note("on_train_end")


@pytest.mark.parametrize(
    ("at", "seen"),
    [
        ("on_train_begin", ["on_train_begin"]),
        ("on_log", ["on_train_begin", "on_log"]),
        (
            "on_train_end",
            ["on_train_begin", "on_log", "on_log", "on_log", "on_log", "on_train_end"],
        ),
    ],
)
def test_a_service_that_fails_is_left_behind(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    at: str,
    seen: list[str],
) -> None:
    service = type("Service", (Failing,), {"at": at, "seen": []})
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "wandb", service)
    with caplog.at_level(logging.WARNING):
        train(tmp_path, [Tracker("wandb")])
    assert service.seen == seen
    told = [line for line in caplog.messages if "not tracking" in line]
    assert told == ["not tracking with wandb: ConnectionError('the service is down')"]


EVENTS = [name for name in dir(TrainerCallback) if name.startswith("on_")]
SEEN = {
    *("on_train_begin", "on_epoch_begin", "on_step_begin", "on_pre_optimizer_step"),
    *("on_optimizer_step", "on_step_end", "on_log", "on_save", "on_epoch_end"),
    "on_train_end",
}
"""What `train` reports, of all that there are."""


def test_each_event_may_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A service for each, all at once."""

    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("the service is down")

    for name in EVENTS:
        service = type(name, (TrainerCallback,), {name: fail})
        monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, name, service)
    with caplog.at_level(logging.WARNING):
        train(tmp_path, list(map(Tracker, EVENTS)), save_steps=1)
    told = [line.split()[3] for line in caplog.messages if "not tracking" in line]
    assert sorted(told) == sorted(f"{name}:" for name in SEEN)


class Broken(TrainerCallback):
    def __init__(self) -> None:
        raise RuntimeError("requires an account")


def test_a_service_that_cannot_start_is_left_out(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "wandb", Broken)
    with caplog.at_level(logging.WARNING):
        train(tmp_path, [Tracker("wandb"), Tracker("tensorboard")])
    told = [line for line in caplog.messages if "not tracking" in line]
    assert told == ["not tracking with wandb: RuntimeError('requires an account')"]
    assert list((tmp_path / "board").iterdir())


def test_trackio_keeps_a_local_record(tmp_path: Path) -> None:
    run = run_dir(tmp_path, "sft")
    settings = {"trainer": {}, "bf16": None}
    names = training_arguments(run, settings)
    given = {key: names[key] for key in ("project", "run_name")}
    train(tmp_path, [Tracker("trackio")], **given)
    database = Path(os.environ["TRACKIO_DIR"]) / f"{tmp_path.name}.db"
    rows = sqlite3.connect(database).execute("select distinct run_name from metrics")
    assert rows.fetchall() == [(f"{tmp_path.name}-sft",)]
