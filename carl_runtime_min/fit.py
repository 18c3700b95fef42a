"""One training phase: the trainer's loop, recorded, resumable and stoppable."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from carl_runtime_min.errors import UsageError
from carl_runtime_min.field import order_parameter
from carl_runtime_min.resume import Stopped
from carl_runtime_min.run import Run, sync, weights_sha256
from carl_runtime_min.supervisor import asked_to_stop

SHOWN = (
    "loss mean_token_accuracy rewards/accuracies reward phi phi/chosen phi/rejected "
    "carl/weight eval_loss eval_reward"
)


def head_width(model: Any) -> int:
    """V: the rows of the output head, padding included."""
    head = model.get_output_embeddings()
    if head is None:
        remedy = "choose a causal language model"
        raise UsageError("the model has no output head of its own", remedy=remedy)
    weight = head.weight
    return int(getattr(weight, "ds_shape", weight.shape)[0])  # ds_: cut by ZeRO-3


def training_arguments(run: Run, settings: dict[str, Any]) -> dict[str, Any]:
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


def approximate(args: Any) -> str | None:
    """Why the same steps may have another result on this machine, if they may."""
    if getattr(args, "use_vllm", False):
        return "vLLM keeps random numbers of its own"
    exact = args.full_determinism or not torch.cuda.is_available()
    return None if exact else "GPUs add in any order (trainer.full_determinism)"


class Observer:
    """A trainer callback that ignores every event it does not define."""

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("on_"):
            raise AttributeError(name)
        return lambda *args, **kwargs: None


class Recorder(Observer):
    """Writes metrics, keeps `parts` in the checkpoints, stops when asked to.

    It comes after what may end the phase, and before trackers: they report Φ too. The
    state of a part is its `vars`.
    """

    def __init__(self, run: Run, width: int, parts: dict[str, Any]) -> None:
        self.run, self.width, self.parts = run, width, parts
        self.finished = self.asked = False

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        logs, step = kwargs["logs"], state.global_step
        if "train_runtime" in logs:  # the trainer's farewell, not a step
            return
        for name in ("entropy", "eval_entropy"):  # Φ is linear in H: means carry over
            if logs.get(name) is not None:
                phi = order_parameter(torch.tensor(logs[name]), self.width)
                logs[name.replace("entropy", "phi")] = phi.item()
        self.run.append("metrics", {"step": step, **logs})
        keys = [key for key in SHOWN.split() if logs.get(key) is not None]
        facts = [f"{key} {logs[key]:.3f}" for key in keys]
        self.run.say(f"{self.run.phase} {step}/{state.max_steps} ", *facts)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.finished = control.should_training_stop  # by the last step or the gate
        control.should_training_stop |= state.global_step == self.run.until
        self.keep(state)
        asked = torch.tensor(float(asked_to_stop(self.run.path)), device=args.device)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(asked)  # all ranks stop after the same step
        self.asked = bool(asked.item())
        control.should_save |= self.asked

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.finished = control.should_training_stop  # the patience is used up
        self.keep(state)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop |= self.asked

    def keep(self, state: Any) -> None:
        """Put into the next checkpoint what a resume needs."""
        kept = {name: deepcopy(vars(part)) for name, part in self.parts.items()}
        state.stateful_callbacks["carl"] = {"finished": self.finished, "parts": kept}


def fit(
    trainer: Any,
    run: Run,
    settings: dict[str, Any],
    parts: dict[str, Any],
    watches: Iterable[Any] = (),
    trackers: Iterable[Any] = (),
) -> bool:
    """Train until the last step, the gate or a request to stop; was it finished?

    A finished phase leaves its model, one that was stopped a checkpoint.
    """
    from transformers import PrinterCallback

    recorder = Recorder(run, head_width(trainer.model), parts)
    trainer.remove_callback(PrinterCallback)
    for callback in (*watches, recorder, *trackers):
        trainer.add_callback(callback)
    with trainer.accelerator.main_process_first():  # it removes what others look at
        start, state = run.start()
    saved = state.get("stateful_callbacks", {}).get("carl", {})
    if start:
        run.say(f"{run.phase}: continuing after step {state['global_step']}")
        if reason := approximate(trainer.args):
            run.say(f"resume: approximate, since {reason}")
        for name, part in parts.items():
            vars(part).update(saved["parts"][name])
    if saved.get("finished"):  # a crash kept the result from being saved
        best = Path(str(state["best_model_checkpoint"] or start)).name
        trainer._load_from_checkpoint(str(run.checkpoints / best))
    else:
        trainer.run, trainer.non_finite = run, settings["non_finite"]
        try:
            trainer.train(resume_from_checkpoint=str(start) if start else None)
        except Stopped:
            trainer.save_between()
            return False
        if not trainer.state.global_step:
            remedy = "add rows, or make the batches smaller"
            raise UsageError("the rows do not fill one batch", remedy=remedy)
        if not recorder.finished:
            return False
        state = vars(trainer.state)
    draft, result = run.checkpoints / "checkpoint-result", run.path / settings["result"]
    trainer.save_model(str(draft))
    if run.first:
        shutil.rmtree(draft / "ref", ignore_errors=True)  # TRL's copy of the adapters
        shutil.rmtree(result, ignore_errors=True)
        sync([*draft.rglob("*"), draft])
        draft.replace(result)
        run.anchor()
        run.summarise(weights_sha256=weights_sha256(result))
        if state["best_metric"] is not None:
            facts = {name: state[name] for name in ("best_metric", "best_global_step")}
            run.summarise(**facts)
    return True
