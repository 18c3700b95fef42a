"""Rules that tie fields of a spec together; each broken one names a way out."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from carl_bundle.errors import Problem, SpecError
from carl_bundle.spec.blocks import DataSettings, Rows
from carl_bundle.spec.data_rules import (
    evaluated_rows_rules,
    mixture_rules,
    stream_rules,
)
from carl_bundle.spec.gym_rules import gym_reward_rules, gym_rules
from carl_bundle.spec.metric_rules import metric_rules
from carl_bundle.spec.phases import COLUMNS, KINDS
from carl_bundle.spec.thinking import template_fault
from carl_bundle.spec.train_spec import TrainSpec
from carl_bundle.spec.vision_rules import image_rules

_HELD = {"prompt", "completion", "chosen", "rejected", "label"}
_SHA = re.compile(r"[0-9a-f]{40}")
_REPO = re.compile(r"([\w][\w.-]{0,95}/)?[\w][\w.-]{0,95}")
_TOKEN = re.compile(r"\b(hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9-]{20,})")


def check(spec: TrainSpec) -> None:
    """Raise SpecError with every rule that the spec breaks."""
    problems = broken_rules(spec)
    if problems:
        raise SpecError(problems)


def broken_rules(spec: TrainSpec) -> list[Problem]:
    """Return what is wrong with a spec whose single fields are all valid.

    The rules see the values that a run would use, defaults included.
    """
    from carl_bundle.spec.class_limits import class_rules
    from carl_bundle.spec.defaults import resolve
    from carl_bundle.spec.passthrough import check_trainer
    from carl_bundle.spec.phase_rules import phase_rules
    from carl_bundle.spec.reward_rules import carl_rules, reward_rules
    from carl_bundle.spec.sharding_rules import sharding_rules
    from carl_bundle.spec.tool_rules import tool_rules

    run = resolve(spec)
    problems = [*_model(run), *_data(run), *_lora(run), *_reporting(run), *_push(run)]
    problems += [*_columns(run), *evaluated_rows_rules(run), *image_rules(run)]
    problems += stream_rules(run)
    for name in KINDS:
        problems += check_trainer(name, getattr(run, name))
    problems += _gate(run)
    problems += _not_read(run)
    problems += [*reward_rules(run), *tool_rules(run)]
    problems += [*phase_rules(run), *class_rules(run)]
    problems += [*sharding_rules(run), *gym_reward_rules(run)]
    if run.sampled:
        problems += carl_rules(run)
    problems += [*_validation(run), *metric_rules(run)]
    if run.method == "pipeline":
        problems += _eval(run)
    return problems


def _model(spec: TrainSpec) -> Iterator[Problem]:
    model = spec.model
    if "://" in model.id:
        yield Problem(
            "model.id",
            f"{model.id!r} is an address",
            "give owner/name of the hub, or a local directory",
        )
    if model.is_builtin:
        own = ("revision", "tokenizer", "attention", "quantize", "chat_template")
        for field in (*own, "frozen"):
            if getattr(model, field) is not None:
                yield Problem(
                    f"model.{field}",
                    "the built-in model has none",
                    f"remove it, or name another model ({field} belongs to that)",
                )
    fault = model.chat_template and template_fault(model.chat_template)
    if fault:
        yield Problem(
            "model.chat_template",
            f"is no Jinja that transformers reads: {fault}",
            "give the text of a template, not its file (in YAML: chat_template: |)",
        )
    fixed = model.is_builtin or (model.frozen and not model.frozen.thinking_switch)
    if model.thinking != "auto" and fixed:
        yield Problem(
            "model.thinking",
            "the chat template has no variable that turns thinking on and off",
            "remove it, or give a model.chat_template with such a variable",
        )
    marked = "sft" in spec.phases and spec.sft.trainer.get("assistant_only_loss")
    if model.thinking != "auto" and marked:
        yield Problem(
            "model.thinking, sft.trainer.assistant_only_loss",
            "TRL marks the answers in chat templates that it knows, and no changed one",
            "remove one of them, or give a model.chat_template with {% generation %}",
        )
    pinned = model.revision if model.frozen is None else model.frozen.commit
    if model.trust_remote_code and not _SHA.fullmatch(pinned or ""):
        yield Problem(
            "model.trust_remote_code",
            "runs code from the hub, so the exact code must be named",
            "set model.revision to a 40-digit commit id",
        )


def _data(spec: TrainSpec) -> Iterator[Problem]:
    yield from _data_block("data", spec.data)
    for name in (*KINDS, "eval"):
        block: DataSettings | None = getattr(spec, name).data
        # A block that was filled from the top one repeats its problems.
        if block is not None and block != spec.data:
            yield from _data_block(f"{name}.data", block)


def _data_block(where: str, data: DataSettings) -> Iterator[Problem]:
    if data.mix is None:
        yield from _rows(where, data)
    else:
        yield from mixture_rules(where, data)
        for index, source in enumerate(data.mix):
            yield from _rows(f"{where}.mix.{index}", source)


def _rows(where: str, data: Rows) -> Iterator[Problem]:
    if "://" in data.id:
        yield Problem(
            f"{where}.id",
            f"{data.id!r} is an address",
            "give owner/name of the hub, or a local .jsonl, .json or .parquet file",
        )
    if data.is_builtin or data.is_file:
        kind = "the built-in task" if data.is_builtin else "a local file"
        for field in ("revision", "config"):
            if getattr(data, field) is not None:
                yield Problem(f"{where}.{field}", f"{kind} has none", "remove it")
    if data.is_builtin and data.columns:
        yield Problem(
            f"{where}.columns", "the built-in task has its own columns", "remove it"
        )
    if data.is_gym:
        yield from gym_rules(where, data)
    if "messages" in data.columns and len(data.columns) > 1:
        others = sorted(set(data.columns) & _HELD)
        if others:
            yield Problem(
                f"{where}.columns",
                f"messages already holds the {' and '.join(others)}",
                f"name messages, or {' and '.join(others)}, not both",
            )


def _columns(spec: TrainSpec) -> Iterator[Problem]:
    for name, phase in spec.phases.items():
        data, read = phase.data or spec.data, COLUMNS.get(name)
        named = {column for source in data.sources for column in source.columns}
        others = sorted(named - {*read, "image", "images"}) if read else []
        if read and others:
            yield Problem(
                "data.columns" if data == spec.data else f"{name}.data.columns",
                f"{name} reads no {' and no '.join(others)}",
                f"name {', '.join(read)} (a conversation may hold its prompt)",
            )


def _lora(spec: TrainSpec) -> Iterator[Problem]:
    lora = spec.lora
    quantization = spec.model.frozen and spec.model.frozen.quantization
    if quantization and spec.model.quantize:
        yield Problem(
            "model.quantize",
            f"the weights are quantised already ({quantization})",
            "remove it, or name the unquantised checkpoint",
        )
    quantization = quantization or spec.model.quantize
    if not lora:
        if quantization:
            yield Problem(
                "lora",
                f"the weights are quantised ({quantization}); only adapters can train",
                "remove `lora: false`, or choose the unquantised checkpoint",
            )
        return
    if lora.targets != "auto" and spec.method not in ("sft", "orpo"):
        heads = [name for name in lora.targets if name.split(".")[-1] == "lm_head"]
        if heads:
            yield Problem(
                "lora.targets",
                f"{spec.method} cannot train an adapter on the output head (lm_head)",
                "leave lm_head out, or set `targets: auto`",
            )
    if lora.dropout > 0 and spec.sampled and spec.carl.enabled:
        yield Problem(
            "lora.dropout",
            "dropout makes the entropy that CARL scores random",
            "set it to 0.0, or set carl.enabled to false",
        )


def _reporting(spec: TrainSpec) -> Iterator[Problem]:
    names = spec.report_to
    if len(set(names)) < len(names):
        yield Problem("report_to", "names a reporter twice", "name each one once")
    if "none" in names and len(names) > 1:
        yield Problem(
            "report_to",
            f"'none' stands beside {', '.join(n for n in names if n != 'none')}",
            "remove 'none', or the others",
        )
    for index, text in enumerate(spec.dependencies):
        yield from _dependency(f"dependencies.{index}", text)


def _dependency(where: str, text: str) -> Iterator[Problem]:
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        yield Problem(
            where, f"{text!r} is no requirement", "write it as `name==1.2.3` (PEP 508)"
        )
        return
    if requirement.url:
        yield Problem(
            where, "names an address, which no lock can check", "write `name==1.2.3`"
        )


def _push(spec: TrainSpec) -> Iterator[Problem]:
    push = spec.push
    if push.enabled and push.repo is None:
        yield Problem(
            "push.repo",
            "push.enabled needs to know where to",
            "set it to owner/name, or set push.enabled to false",
        )
    if push.repo is not None and not _REPO.fullmatch(push.repo):
        yield Problem(
            "push.repo", f"{push.repo!r} is no repository id", "write it as owner/name"
        )
    texts = (spec.model.id, spec.data.id, push.repo or "", spec.output_dir or "")
    if any(_TOKEN.search(text) for text in texts):
        yield Problem(
            "",
            "the spec holds what looks like an access token",
            "remove it and set HF_TOKEN in the environment; revoke a shared token",
        )


def _gate(spec: TrainSpec) -> Iterator[Problem]:
    gate = spec.gate
    if gate.min_above > gate.window:
        yield Problem(
            "gate.min_above, gate.window",
            f"{gate.min_above} of the last {gate.window} values can never be above",
            f"set gate.min_above to at most {gate.window}, or gate.window higher",
        )


def _not_read(spec: TrainSpec) -> Iterator[Problem]:
    """Yield what no recipe does yet, which must not be silent."""
    quantization = spec.model.frozen and spec.model.frozen.quantization
    if quantization == "mxfp4":
        yield Problem(
            "model",
            "mxfp4 weights train only after they are dequantised, which no recipe does",
            "name a bfloat16 checkpoint of the model",
        )


def _validation(spec: TrainSpec) -> Iterator[Problem]:
    """An evaluation in the course of training, which may choose a checkpoint."""
    settings = spec.eval
    for field in ("metric", "best", "patience"):
        if settings.every is None and getattr(settings, field) is not None:
            yield Problem(
                f"eval.{field}",
                "belongs to an evaluation in the course of training",
                "set eval.every to a number of steps, or remove it",
            )
    if settings.every is None:
        return
    if spec.method == "pipeline":
        yield Problem(
            "eval.every",
            "items that chose a checkpoint cannot judge it at the end of the pipeline",
            "remove it, or train the phases as runs of their own (method: sft, grpo)",
        )
    phases = [phase.data for phase in spec.phases.values()]
    kinds = {data.source for data in (settings.data, *phases) if data and not data.mix}
    if len(kinds) > 1:
        yield Problem(
            "eval.data",
            f"and the rows to train on come from {' and '.join(sorted(kinds))}",
            "take both from files, or both from the hub",
        )
    if settings.patience is not None and not settings.best:
        yield Problem(
            "eval.patience",
            "stopping early needs the best checkpoint to go back to",
            "set eval.best to true, or remove eval.patience",
        )
    for name, phase in spec.phases.items():
        if settings.best and phase.save_steps != settings.every:
            yield Problem(
                f"{name}.save_steps, eval.every",
                f"a best model that is found every {settings.every} steps is not "
                f"kept by a checkpoint every {phase.save_steps}",
                f"set {name}.save_steps to {settings.every}",
            )


def _eval(spec: TrainSpec) -> Iterator[Problem]:
    """The verdict needs enough items: with a perfect score, n >= ln(a) / ln(t)."""
    settings = spec.eval
    if settings.threshold is None or settings.items is None:
        return
    needed = math.ceil(math.log(settings.alpha) / math.log(settings.threshold))
    if settings.items < needed:
        yield Problem(
            "eval.items, eval.threshold, eval.alpha",
            f"{settings.items} items cannot prove a pass rate of "
            f"{settings.threshold} at level {settings.alpha}, even if all pass",
            f"set eval.items to at least {needed}, or lower eval.threshold",
        )
