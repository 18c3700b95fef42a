"""Trainers in this process: the runtime's mixins on a tiny model, made in a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from carl_runtime_min.cascade import Cascade
from carl_runtime_min.fit import Observer, head_width
from carl_runtime_min.gate import PhaseTransitionGate
from carl_runtime_min.gate_watch import GateWatch
from carl_runtime_min.grpo import CoherenceReward, CoherentPolicy
from carl_runtime_min.resume import ExactResume
from carl_runtime_min.run import Run
from tests import tiny

WEIGHTS = [0.5, 0.3, 0.2]


def lower(completions: list[Any], **_: Any) -> list[float]:
    """A task reward without a plateau: the share of lower-case letters."""
    texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
    return [sum(x.islower() for x in text) / max(1, len(text)) for text in texts]


def plain_text(completions: list[Any], **_: Any) -> list[float]:
    """A task reward that tells no two completions apart."""
    return [0.25] * len(completions)


def chats(count: int = 24) -> Any:
    """Rows with a conversational `prompt` and an `answer`."""
    from datasets import Dataset

    rows = tiny.questions(count)
    for row in rows:
        row["prompt"] = [{"role": "user", "content": row["prompt"]}]  # type: ignore
    return Dataset.from_list(rows)


def run_dir(folder: Path, phase: str = "grpo", resume: str = "auto") -> Run:
    folder.mkdir(parents=True, exist_ok=True)
    return Run(folder, phase, resume)


def arguments(run: Run, **given: Any) -> dict[str, Any]:
    """Trainer arguments as a script sets them, for a CPU and a test."""
    common = {
        "output_dir": str(run.checkpoints),
        "max_steps": 2,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1000,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "bf16": False,
        "dataloader_pin_memory": False,
        "gradient_checkpointing": False,
        "seed": 7,
    }
    return common | given


def grpo(
    folder: Path,
    mixin: type | None = CoherentPolicy,
    *,
    model: Any = None,
    tasks: tuple[Any, ...] = (lower,),
    task_weights: tuple[float, ...] = (1.0,),
    carl: Any = None,
    cascade: dict[str, Any] | None = None,
    samples_every: int = 1000,
    base: type | None = None,
    method: str = "GRPO",
    rows: Any = None,
    words: Any = None,
    **given: Any,
) -> Any:
    """A GRPO or RLOO trainer; without `mixin` it is TRL's own. CARL starts at step 0.

    A cascade that does not say `carl_start` is adaptive, and thus in stage A here.
    """
    import trl

    config, trls_own = getattr(trl, f"{method}Config"), getattr(trl, f"{method}Trainer")
    run = run_dir(folder)
    model = tiny.model() if model is None else model
    if given.get("beta") and not hasattr(model, "peft_config"):
        model.save_pretrained(folder / "base")  # TRL reads the reference from there
        model.config._name_or_path = str(folder / "base")
    base = base or trls_own
    kind = type("Trainer", (mixin, base), {}) if mixin else base
    rewards, weights = list(tasks), list(task_weights)
    coherent = mixin is not None and issubclass(mixin, CoherentPolicy)
    if coherent:
        rewards.append(carl or CoherenceReward(head_width(model), WEIGHTS))
        weights.append(0.5)
    sizes = {"per_device_train_batch_size": 8, "num_generations": 4, "beta": 0.0}
    options = {"max_completion_length": 12, "reward_weights": weights, **sizes}
    trainer = kind(
        model,
        rewards,
        args=config(**arguments(run, **(options | given))),
        train_dataset=rows or chats(),
        processing_class=words or tiny.tokenizer(),
    )
    if coherent:
        trainer.cascade = Cascade(**(cascade or {"carl_start": 0, "warmup_steps": 1}))
        trainer.tie_weight = 0.5
    if mixin:
        trainer.record_in(run, samples_every)
    return trainer


def preference(
    folder: Path,
    method: str,
    rows: list[dict[str, Any]],
    mixin: type | None = None,
    *,
    model: Any = None,
    words: Any = None,
    **given: Any,
) -> Any:
    """A DPO, KTO or ORPO trainer on `rows`, all of them in one batch."""
    import trl
    from datasets import Dataset
    from trl.experimental import orpo

    library = orpo if method == "ORPO" else trl
    config = getattr(library, f"{method}Config")
    base = getattr(library, f"{method}Trainer")
    kind = type("Trainer", (mixin, base), {}) if mixin else base
    model = model or tiny.model()
    alone = method == "ORPO" or hasattr(model, "peft_config")
    options = {"per_device_train_batch_size": len(rows), "max_length": 128, **given}
    run = run_dir(folder, method.lower())
    trainer = kind(
        model,
        args=config(**arguments(run, **options)),
        train_dataset=Dataset.from_list(rows),
        processing_class=words or tiny.tokenizer(),
        **({} if alone else {"ref_model": tiny.model()}),
    )
    trainer.run = run
    return trainer


def sft(folder: Path, gate: Any = None, **given: Any) -> tuple[Any, Any]:
    """An SFT trainer, and the watch that shows it the gate (default: never fires)."""
    from trl import SFTConfig, SFTTrainer

    run = run_dir(folder, "sft")
    rows = chats()
    answers = [[{"role": "assistant", "content": x}] for x in rows["answer"]]
    rows = rows.remove_columns("answer").add_column("completion", answers)
    options = {"per_device_train_batch_size": 4, "max_length": 64}
    kind = type("Trainer", (ExactResume, SFTTrainer), {})
    trainer = kind(
        given.pop("model", None) or tiny.model(),
        args=SFTConfig(**arguments(run, **(options | given))),
        train_dataset=rows,
        processing_class=tiny.tokenizer(),
    )
    gate = gate or PhaseTransitionGate(threshold=2.0)
    return trainer, GateWatch(trainer, gate, "mean_token_accuracy", stop=True)


def logged(trainer: Any, name: str) -> list[float]:
    """What a trainer logged under a name, step by step."""
    return [row[name] for row in trainer.state.log_history if name in row]


class Crash(Observer):
    """Ends training like a crash: after a step, when all is written and saved."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt("the machine is gone")


class Asked(Observer):
    """The supervisor of the run in `folder`: it asks for a stop during a step."""

    def __init__(self, folder: Path, step: int) -> None:
        self.stop, self.step = folder / "stop", step
        self.stop.unlink(missing_ok=True)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step + 1 == self.step:
            self.stop.touch()


def same_weights(a: Any, b: Any) -> bool:
    """Whether two models hold the same numbers, bit for bit."""
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(x == y and torch.equal(v, w) for (x, v), (y, w) in pairs)
