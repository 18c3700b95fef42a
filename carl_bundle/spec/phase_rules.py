"""Rules inside a training phase: horizon, batches, generation windows."""

from __future__ import annotations

import math
from collections.abc import Iterator

from carl_bundle.errors import Problem
from carl_bundle.spec.phases import GRPOSettings, PhaseSettings
from carl_bundle.spec.train_spec import TrainSpec

_NEEDS_KWARGS = {
    "cosine_with_min_lr": "min_lr",
    "cosine_warmup_with_min_lr": "min_lr",
    "warmup_stable_decay": "num_decay_steps",
}


def sft_rules(spec: TrainSpec) -> Iterator[Problem]:
    """Yield what is wrong with a supervised phase that will run."""
    yield from _horizon("sft", spec.sft)
    yield from _context("sft", spec.sft, spec)
    if spec.sft.trainer.get("loss_type") == "chunked_nll":
        yield Problem(
            "sft.trainer.loss_type",
            "the pinned TRL deprecates 'chunked_nll'",
            "use 'nll', which computes the same",
        )


def grpo_rules(spec: TrainSpec) -> Iterator[Problem]:
    """Yield what is wrong with a GRPO phase that will run."""
    grpo = spec.grpo
    yield from _horizon("grpo", grpo)
    yield from _context("grpo", grpo, spec)
    yield from _groups(grpo)
    yield from _window(grpo)
    yield from _entropy_bonus(spec)
    if grpo.beta and spec.model.is_builtin and spec.method == "grpo" and not spec.lora:
        yield Problem(
            "grpo.beta",
            "the reference model is loaded from disk, and the built-in one is on none",
            "set method: pipeline or a lora block, or leave beta at 0",
        )
    length, completion = grpo.max_length, grpo.max_completion_length
    if length is not None and completion is not None and completion >= length:
        yield Problem(
            "grpo.max_completion_length, grpo.max_length",
            f"a completion of {completion} tokens leaves no room for a prompt in "
            f"{length}",
            "raise grpo.max_length (prompt and completion together)",
        )


def generation_window(grpo: GRPOSettings) -> int:
    """Return after how many optimizer steps generation windows and steps align.

    A window is `steps_per_generation * num_iterations` micro-steps, a step is
    `gradient_accumulation_steps`; a checkpoint inside a window resumes into
    another batch than the one it left.
    """
    micro_steps = (grpo.steps_per_generation or 1) * (grpo.num_iterations or 1)
    return micro_steps // math.gcd(micro_steps, grpo.gradient_accumulation_steps or 1)


def _horizon(name: str, phase: PhaseSettings) -> Iterator[Problem]:
    if phase.max_steps is not None and phase.num_train_epochs is not None:
        yield Problem(
            f"{name}.max_steps, {name}.num_train_epochs",
            "both say when to end",
            "remove one of them",
        )
    kwarg = _NEEDS_KWARGS.get(phase.lr_scheduler_type or "")
    given = phase.trainer.get("lr_scheduler_kwargs")
    if kwarg and not given:
        yield Problem(
            f"{name}.lr_scheduler_type",
            f"{phase.lr_scheduler_type!r} needs settings of its own",
            f"set {name}.trainer.lr_scheduler_kwargs, for instance {kwarg}",
        )


def _context(name: str, phase: PhaseSettings, spec: TrainSpec) -> Iterator[Problem]:
    limit = spec.model.frozen and spec.model.frozen.context_length
    if limit and phase.max_length is not None and phase.max_length > limit:
        yield Problem(
            f"{name}.max_length",
            f"{phase.max_length} tokens exceed the model's context of {limit}",
            f"set it to at most {limit}",
        )


def _groups(grpo: GRPOSettings) -> Iterator[Problem]:
    """Every generation batch holds whole groups of completions of one prompt."""
    batch = grpo.per_device_train_batch_size or 1
    group = grpo.num_generations or 2
    steps = grpo.steps_per_generation or 1
    if (batch * steps) % group == 0:
        return
    nearest = group // math.gcd(group, steps)
    better = math.ceil(batch / nearest) * nearest
    yield Problem(
        "grpo.per_device_train_batch_size, grpo.num_generations",
        f"a generation batch of {batch} x {steps} = {batch * steps} completions "
        f"cannot hold whole groups of {group}",
        f"set grpo.per_device_train_batch_size to {better}, or grpo.num_generations "
        f"to a divisor of {batch * steps}",
    )


def _window(grpo: GRPOSettings) -> Iterator[Problem]:
    window, every = generation_window(grpo), grpo.save_steps
    if every is None or every % window == 0:
        return
    below = every // window * window
    choices = f"{below} or {below + window}" if below else str(window)
    yield Problem(
        "grpo.save_steps",
        f"a checkpoint every {every} steps falls inside a generation window of "
        f"{window} steps, from where a resume would not be exact",
        f"set it to {choices}",
    )


def _entropy_bonus(spec: TrainSpec) -> Iterator[Problem]:
    if not spec.carl.enabled:
        return
    trainer = spec.grpo.trainer
    bonus = trainer.get("entropy_coef")
    names = []
    if isinstance(bonus, int | float) and bonus > 0:
        names.append("entropy_coef")
    if trainer.get("use_adaptive_entropy"):
        names.append("use_adaptive_entropy")
    for name in names:
        yield Problem(
            f"grpo.trainer.{name}",
            "rewards high entropy, while CARL rewards low entropy",
            "remove it, or set carl.enabled to false",
        )
