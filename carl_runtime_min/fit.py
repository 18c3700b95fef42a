"""One training phase, from its checkpoint or from the start, to its result on disk."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from carl_runtime_min.errors import CarlError
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

SHOWN = ("loss", "mean_token_accuracy", "reward", "phi", "carl/weight")


def head_width(model: Any) -> int:
    """V: the rows of the output head, padding included."""
    return int(model.get_output_embeddings().weight.shape[0])


def training_arguments(run: RunDir, settings: dict[str, Any]) -> dict[str, Any]:
    """The spec's trainer arguments, and those that depend on this machine."""
    cuda, bf16 = torch.cuda.is_available(), settings["bf16"]
    return {
        "project": run.path.name,  # as trackers name it
        "run_name": f"{run.path.name}-{run.phase}",
        **settings["trainer"],
        "output_dir": str(run.checkpoints),
        "use_cpu": not cuda,
        "dataloader_pin_memory": cuda,
        "bf16": cuda and torch.cuda.is_bf16_supported() if bf16 is None else bf16,
    }


class Observer:
    """A trainer callback: every event it does not define is ignored."""

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("on_"):
            raise AttributeError(name)
        return lambda *args, **kwargs: None


class Recorder(Observer):
    """Records metrics with Φ, completes checkpoints, heeds requests to stop.

    `state` holds what must survive a resume beside the trainer's own state: objects
    with `state_dict()`, by name. The newest `keep` checkpoints stay.
    """

    def __init__(
        self, run: RunDir, width: int, state: dict[str, Any], keep: int, stop: Any
    ) -> None:
        self.run, self.width, self.state = run, width, state
        self.keep, self.stop, self.asked, self.stopped = keep, stop, False, False

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        logs, step = kwargs["logs"], state.global_step
        if "train_runtime" in logs:  # the trainer's farewell, not a step
            return
        if logs.get("entropy") is not None:  # Φ is linear in H: the mean carries over
            entropy = torch.tensor(logs["entropy"])
            logs["phi"] = order_parameter(entropy, self.width).item()
        self.run.append("metrics", {"step": step, **logs})
        facts = [f"{key} {logs[key]:.3f}" for key in SHOWN if logs.get(key) is not None]
        if self.run.rank == 0:
            print(f"{self.run.phase} {step}/{state.max_steps} ", *facts, flush=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        asked = torch.tensor(float(self.stop.asked()), device=args.device)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(asked)  # all ranks stop after the same step
        if asked.item():
            self.asked = control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        finished = control.should_training_stop  # by the last step or the gate
        if self.asked and not finished:
            self.stopped = control.should_training_stop = True
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        if self.run.rank == 0:
            folder = self.run.checkpoints / f"checkpoint-{state.global_step}"
            states = {name: item.state_dict() for name, item in self.state.items()}
            mark = {"step": state.global_step, "finished": finished, **states}
            write_json(folder / COMPLETE, mark)
            for old in complete_checkpoints(self.run.checkpoints)[: -self.keep]:
                (old / COMPLETE).unlink()  # first: a crash must not leave half of one
                shutil.rmtree(old)


@contextlib.contextmanager
def nothing_half_written(run: RunDir, result: Path) -> Iterator[None]:
    """After an error, remove what was being written; tell of a full disk plainly."""
    try:
        yield
    except Exception as error:
        full = "No space left" in str(error) or not shutil.disk_usage(run.path).free
        for folder in (*run.checkpoints.glob("checkpoint-*"), result):
            if not (folder / COMPLETE).is_file():
                shutil.rmtree(folder, ignore_errors=True)
        if not full:
            raise
        raise CarlError(
            f"no space left for {run.path}",
            remedy="free some, then run the same command: it goes on where it was",
            exit_code=4,
        ) from error


def fit(
    trainer: Any,
    run: RunDir,
    settings: dict[str, Any],
    state: dict[str, Any],
    stop: StopRequest,
    callbacks: Sequence[Any] = (),
) -> bool:
    """Train until the last step, the gate or a request to stop; was it finished?

    A finished phase leaves its model, one that was stopped a checkpoint.
    """
    from transformers import PrinterCallback

    recorder = Recorder(run, head_width(trainer.model), state, settings["keep"], stop)
    trainer.remove_callback(PrinterCallback)
    for callback in (recorder, *callbacks):
        trainer.add_callback(callback)
    start = run.start()
    saved = read_json(start / COMPLETE) if start else {"step": 0, "finished": False}
    run.rewind(saved["step"])
    if start is not None:
        for name, item in state.items():
            item.load_state_dict(saved[name])
        if run.rank == 0:
            print(f"{run.phase}: continuing after step {saved['step']}", flush=True)
    result = run.path / settings["result"]
    with nothing_half_written(run, result):
        if saved["finished"]:  # a crash kept the result from being saved
            trainer._load_from_checkpoint(str(start))
        else:
            trainer.train(resume_from_checkpoint=str(start) if start else None)
        if not recorder.stopped:
            trainer.save_model(str(result))
            if run.rank == 0:
                run.summarise(weights_sha256=weights_sha256(result))
    return not recorder.stopped
