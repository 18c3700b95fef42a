"""One training phase, from its checkpoint or from the start, to its result on disk."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from carl_runtime_min.field import order_parameter
from carl_runtime_min.run import (
    COMPLETE,
    RunDir,
    complete_checkpoints,
    read_json,
    weights_sha256,
    write_json,
)
from carl_runtime_min.supervisor import StopRequest


def device_settings(bf16: bool | None) -> dict[str, Any]:
    """Trainer arguments that depend on this machine: CUDA if there, else the CPU."""
    cuda = torch.cuda.is_available()
    if bf16 is None:
        bf16 = cuda and torch.cuda.is_bf16_supported()
    return {"use_cpu": not cuda, "dataloader_pin_memory": cuda, "bf16": bf16}


class Observer:
    """A trainer callback: every event it does not define is ignored."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("on_"):
            return lambda *args, **kwargs: None
        raise AttributeError(name)


class Recorder(Observer):
    """Trainer callback: records metrics, completes checkpoints, heeds requests to stop.

    Args:
        run: Where to write.
        vocab_size: Width of the output head, for Φ from the logged entropy.
        state: Objects with `state_dict()` that must survive a resume, by name.
        keep: How many complete checkpoints stay on disk.
        stop: The request to stop, or None outside a script.
    """

    def __init__(
        self,
        run: RunDir,
        vocab_size: int,
        state: dict[str, Any],
        keep: int,
        stop: StopRequest | None,
    ) -> None:
        self.run, self.vocab_size, self.state = run, vocab_size, state
        self.keep, self.stop, self.stopped = keep, stop, False

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        logs = kwargs["logs"]
        if logs.get("entropy") is not None:
            logs["phi"] = order_parameter(
                torch.tensor(logs["entropy"]), self.vocab_size
            ).item()
        step = state.global_step
        self.run.append("metrics", {"step": step, **logs})
        if self.run.rank == 0:
            shown = ("loss", "mean_token_accuracy", "reward", "phi", "carl/weight")
            facts = [f"{key} {logs[key]:.3f}" for key in shown if logs.get(key)]
            print(f"{self.run.phase} {step}/{state.max_steps}", *facts, flush=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        asked = torch.tensor([float(bool(self.stop and self.stop.signal))])
        if torch.distributed.is_initialized():
            asked = asked.to(args.device)
            torch.distributed.all_reduce(asked)  # all ranks stop at the same step
        if asked.item():
            self.stopped = control.should_save = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        if self.run.rank != 0:
            return
        folder = self.run.checkpoints / f"checkpoint-{state.global_step}"
        states = {name: item.state_dict() for name, item in self.state.items()}
        write_json(folder / "carl_state.json", states)
        write_json(folder / COMPLETE, {"step": state.global_step})
        for old in complete_checkpoints(self.run.checkpoints)[: -self.keep]:
            (old / COMPLETE).unlink()  # first, so that a crash leaves no half of one
            shutil.rmtree(old)


class GuardedTracker:
    """Passes every event to a tracker until it fails; a failure never stops the run."""

    def __init__(self, tracker: Any) -> None:
        self.tracker = tracker

    def __getattr__(self, event: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> None:
            if self.tracker is None:
                return
            try:
                getattr(self.tracker, event)(*args, **kwargs)
            except Exception as error:
                logging.warning("tracking stopped: %s: %s", type(error).__name__, error)
                self.tracker = None

        return call


def trackers(names: list[str], run: RunDir) -> list[Any]:
    """Callbacks that report to the named services; one that cannot start is left out."""
    from transformers.integrations import get_reporting_integration_callbacks

    os.environ.setdefault("TRACKIO_PROJECT", run.path.name)
    os.environ.setdefault("WANDB_PROJECT", run.path.name)
    started = []
    for name in names:
        try:
            (callback,) = get_reporting_integration_callbacks([name])
            started.append(GuardedTracker(callback()))
        except Exception as error:
            logging.warning("not tracking with %s: %s", name, error)
    return started


def fit(
    trainer: Any,
    run: RunDir,
    *,
    state: dict[str, Any],
    keep: int,
    report_to: list[str],
    stop: StopRequest | None,
) -> bool:
    """Train until the last step, the gate or a request to stop.

    Returns:
        True when the phase is finished and its model is saved under `run.result`,
        False when it checkpointed because it was asked to stop.
    """
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    width = trainer.model.get_output_embeddings().weight.shape[0]
    recorder = Recorder(run, width, state, keep, stop)
    start: Path | None = run.start()
    trainer.callback_handler.callbacks.insert(0, recorder)
    for tracker in trackers(report_to, run):
        trainer.add_callback(tracker)
    if start is not None:
        saved = read_json(start / "carl_state.json")
        for name, item in state.items():
            item.load_state_dict(saved[name])
        step = read_json(start / COMPLETE)["step"]
        run.rewind(step)
        print(f"{run.phase}: continuing after step {step}", flush=True)
    trainer.train(resume_from_checkpoint=str(start) if start else None)
    if recorder.stopped:
        return False
    trainer.save_model(str(run.result))
    if run.rank == 0:
        digest = weights_sha256(run.result)
        steps = trainer.state.global_step
        write_json(run.result / COMPLETE, {"steps": steps, "weights_sha256": digest})
    return True
