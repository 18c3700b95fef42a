"""A stop at any moment, after which the same run goes on.

TRL's checkpoints leave out the values that are not logged yet, and the samples that
later steps still train on. This mixin adds them, for each rank, and lets a run stop in
the middle of a step, which then has not begun.
"""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from carl_runtime_min.guards import FiniteSteps
from carl_runtime_min.run import STATE, checkpoints, sync
from carl_runtime_min.steps import DIGESTED, digest
from carl_runtime_min.supervisor import asked_to_stop

COUNTERS = (
    "_tr_loss",
    "_globalstep_last_logged",
    "_metrics",
    "_stored_metrics",  # as ORPO calls them
    "_total_train_tokens",
    "skipped",
    "plain_head",
)
WINDOW = ("_step", "_buffered_inputs", "completion_ids", "rewards")  # of several steps
CHECKPOINT_HOOKS = {
    "_get_grad_norm": "model, grad_norm",
    "_maybe_log_save_evaluate": "tr_loss",
    "_save_rng_state": "output_dir",
    "_load_rng_state": "checkpoint",
    "_save_checkpoint": "model, trial",
}


class Stopped(Exception):  # noqa: N818  (no error)
    """The run was asked to stop in the middle of an optimizer step."""


class ExactResume(FiniteSteps):
    """Mixin of a trainer that is trained by `fit`, which sets `run`."""

    between: dict[str, Any] | None = None  # what holds after the last step
    seen: tuple[str, ...] = ()  # digests of the batches of this step

    def counters(self) -> dict[str, Any]:
        """What the trainer counts; of samples, which never change, no copy."""
        own = vars(self)
        counted = {name: copy.deepcopy(own[name]) for name in COUNTERS if name in own}
        return counted | {name: own[name] for name in WINDOW if name in own}

    def count_from(self, counters: dict[str, Any]) -> None:
        """Set the counters to those of another step."""
        vars(self).update(counters)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        if self.seen:  # it is called once more at the end of an epoch
            self.run.append("steps", self.step_record())
        super()._maybe_log_save_evaluate(*args, **kwargs)
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        self.between = {
            "counters": self.counters(),
            "tokens": self.state.num_input_tokens_seen,
            "rng": (random.getstate(), np.random.get_state(), torch.get_rng_state()),
            "cuda": cuda,
        }

    def training_step(
        self, model: Any, inputs: Any, *args: Any, **kwargs: Any
    ) -> Tensor:
        """One micro-batch; a request to stop is heard at the next forward, or token."""
        peft = hasattr(self.model, "get_base_model")
        policy = self.model.get_base_model() if peft else self.model
        alone = self.accelerator.num_processes == 1  # others would wait for ever
        hook = policy.register_forward_pre_hook(self.listen) if alone else None
        try:
            loss: Tensor = super().training_step(model, inputs, *args, **kwargs)
        finally:
            if hook:
                hook.remove()
        self.finite &= bool(loss.isfinite())
        self.seen += (digest(inputs),)
        return loss

    def step_record(self) -> dict[str, Any]:
        """What the step was made of and led to, for a replay to compare."""
        samples, rewards = vars(self).get("completion_ids"), vars(self).get("rewards")
        weights = [(n, w) for n, w in self.model.named_parameters() if w.requires_grad]
        trained = {n: getattr(w, "to_local", lambda w=w: w)() for n, w in weights}
        few = sum(map(Tensor.numel, trained.values())) < DIGESTED
        rows = [weight.detach().norm(dim=-1).double() for weight in trained.values()]
        seen, self.seen = self.seen, ()
        return {
            "step": self.state.global_step,
            "script": self.run.script,
            "batch": digest(seen),
            "samples": samples and digest(samples),
            "rewards": None if rewards is None else rewards.tolist(),
            "state": digest(self.state.stateful_callbacks.get("carl")),
            "norm": sum(row.norm() for row in rows).item(),
            "weights": digest(trained) if few or self.control.should_save else None,
        }

    def listen(self, *forward: Any) -> None:
        if asked_to_stop(self.run.path):
            raise Stopped

    def save_between(self) -> None:
        """Checkpoint what was true before the step that was begun and given up."""
        states = checkpoints(self.run.checkpoints).values()
        steps = [state["global_step"] for state in states]
        if self.between is None or self.state.global_step in steps:
            return
        self.count_from(self.between["counters"])
        self.state.num_input_tokens_seen = self.between["tokens"]
        python, numpy, cpu = self.between["rng"]
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        torch.cuda.set_rng_state_all(self.between["cuda"])
        self._save_checkpoint(self.model, None)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Older checkpoints go when all of this one is on the disk."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        super()._save_checkpoint(model, trial)
        self.args.save_total_limit = limit
        if self.run.first:
            new = self.run.checkpoints / f"checkpoint-{self.state.global_step}"
            sync([new / STATE, new, new.parent])
            self.run.anchor()
            self.run.rotate(limit, self.state.best_model_checkpoint)

    def _save_rng_state(self, folder: str) -> None:
        from safetensors.torch import save_file

        super()._save_rng_state(folder)
        tensors: dict[str, Tensor] = {}

        def plain(value: Any) -> Any:
            if isinstance(value, Tensor):
                tensors[name := str(len(tensors))] = value.detach().cpu().clone()
                return {"tensor": name}
            if isinstance(value, dict):
                return {key: plain(each) for key, each in value.items()}
            return list(map(plain, value)) if isinstance(value, list) else value

        told = json.dumps(plain(self.counters()))
        save_file(tensors, self.counters_file(folder), {"counters": told})
        self.accelerator.wait_for_everyone()  # the next file says that all is whole
        if self.run.first:
            sync([*Path(folder).rglob("*"), *self.run.path.glob("*.jsonl")])

    def _load_rng_state(self, folder: str | None) -> None:
        from safetensors import safe_open

        super()._load_rng_state(folder)
        with safe_open(self.counters_file(folder), "pt") as file:

            def made(value: Any) -> Any:
                if isinstance(value, dict) and list(value) == ["tensor"]:
                    return file.get_tensor(value["tensor"]).to(self.args.device)
                if isinstance(value, dict):
                    return {key: made(each) for key, each in value.items()}
                return list(map(made, value)) if isinstance(value, list) else value

            counters = made(json.loads(file.metadata()["counters"]))
        for name in ("_metrics", "_stored_metrics"):  # dictionaries with defaults
            for part, values in counters.pop(name, {}).items():
                vars(self)[name][part].update(values)
        self.count_from(counters)

    def counters_file(self, folder: str | None) -> Path:
        rank = self.accelerator.process_index
        return Path(str(folder)) / f"counters-{rank}.safetensors"
