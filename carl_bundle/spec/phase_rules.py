"""Rules inside a training phase: horizon, batches, lengths."""

from __future__ import annotations

import math
from collections.abc import Iterator

from carl_bundle.errors import Problem
from carl_bundle.spec.passthrough import CONTROLLED, DEPRECATED
from carl_bundle.spec.phases import PhaseSettings, SampledSettings
from carl_bundle.spec.train_spec import TrainSpec

_NEEDS_KWARGS = {
    "cosine_with_min_lr": "min_lr",
    "cosine_warmup_with_min_lr": "min_lr",
    "warmup_stable_decay": "num_decay_steps",
}


def phase_rules(spec: TrainSpec) -> Iterator[Problem]:
    """Yield what is wrong with the training phases that will run."""
    for name, phase in spec.phases.items():
        yield from _horizon(name, phase)
        yield from _context(name, phase, spec)
        if isinstance(phase, SampledSettings):
            yield from _groups(name, phase)
            yield from _reference(name, phase, spec)
            yield from _room(name, phase)
            yield from _prompts(name, phase)
            yield from _vllm(name, phase, spec)
            if spec.carl.enabled:
                yield from _entropy_bonus(name, phase)
        elif name == "sft" and phase.trainer.get("loss_type") == "chunked_nll":
            yield Problem(
                "sft.trainer.loss_type",
                "the pinned TRL deprecates 'chunked_nll'",
                "use 'nll', which computes the same",
            )
        elif name == "kto" and phase.per_device_train_batch_size == 1:
            yield Problem(
                "kto.per_device_train_batch_size",
                "KTO estimates its KL term from mismatched pairs within a batch",
                "set it to at least 2",
            )


def _reference(name: str, phase: SampledSettings, spec: TrainSpec) -> Iterator[Problem]:
    own = spec.model.is_builtin and spec.method == name
    if phase.beta and own and not spec.lora:
        yield Problem(
            f"{name}.beta",
            "the reference model is loaded from disk, and the built-in one is on none",
            "set method: pipeline or a lora block, or leave beta at 0",
        )


def _prompts(name: str, phase: SampledSettings) -> Iterator[Problem]:
    if phase.too_long == "truncate":
        yield Problem(
            f"{name}.too_long",
            "a question cut short is another question",
            "set it to drop (left out and counted) or refuse",
        )


def _room(name: str, phase: SampledSettings) -> Iterator[Problem]:
    length, completion = phase.max_length, phase.max_completion_length
    if length is not None and completion is not None and completion >= length:
        yield Problem(
            f"{name}.max_completion_length, {name}.max_length",
            f"a completion of {completion} tokens leaves no room for a prompt in "
            f"{length}",
            f"raise {name}.max_length (prompt and completion together)",
        )


def _vllm(name: str, phase: SampledSettings, spec: TrainSpec) -> Iterator[Problem]:
    told = {*CONTROLLED, *DEPRECATED}  # those have a problem of their own
    given = [field for field in phase.trainer if field not in told]
    others = [field for field in given if field.startswith("vllm_")]
    if phase.vllm is None and others:
        yield Problem(
            f"{name}.trainer.{others[0]}",
            "nothing is generated with vLLM",
            f"set {name}.vllm to colocate or server, or remove it",
        )
    if phase.vllm and spec.model.is_builtin:
        yield Problem(
            f"{name}.vllm",
            "vLLM loads the model from disk, and the built-in one is on none",
            "name another model, or remove it",
        )
    if phase.vllm and spec.model.quantize == "8bit":
        yield Problem(
            f"{name}.vllm, model.quantize",
            "vLLM cannot take over weights of 8 bits",
            "set model.quantize to 4bit, or remove one of them",
        )


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


def _groups(name: str, phase: SampledSettings) -> Iterator[Problem]:
    """Every generation batch holds whole groups of completions of one prompt."""
    batch = phase.per_device_train_batch_size or 1
    group = phase.num_generations or 2
    steps = phase.steps_per_generation or 1
    if (batch * steps) % group == 0:
        return
    nearest = group // math.gcd(group, steps)
    better = math.ceil(batch / nearest) * nearest
    yield Problem(
        f"{name}.per_device_train_batch_size, {name}.num_generations",
        f"a generation batch of {batch} x {steps} = {batch * steps} completions "
        f"cannot hold whole groups of {group}",
        f"set {name}.per_device_train_batch_size to {better}, or "
        f"{name}.num_generations to a divisor of {batch * steps}",
    )


def _entropy_bonus(name: str, phase: SampledSettings) -> Iterator[Problem]:
    bonus = phase.trainer.get("entropy_coef")
    fields = []
    if isinstance(bonus, int | float) and bonus > 0:
        fields.append("entropy_coef")
    if phase.trainer.get("use_adaptive_entropy"):
        fields.append("use_adaptive_entropy")
    for field in fields:
        yield Problem(
            f"{name}.trainer.{field}",
            "rewards high entropy, while CARL rewards low entropy",
            "remove it, or set carl.enabled to false",
        )
