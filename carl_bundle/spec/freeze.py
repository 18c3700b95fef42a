"""Freezing: tie a spec to exact revisions, so that it renders the same anywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeVar

from carl_bundle.errors import Problem, SpecError
from carl_bundle.spec.architecture import AutoClass
from carl_bundle.spec.blocks import DataSettings, FrozenModel, ModelSettings, Rows
from carl_bundle.spec.class_limits import class_entry, lacking
from carl_bundle.spec.locate import SHA, is_hub_id, locate
from carl_bundle.spec.model_files import ModelFiles
from carl_bundle.spec.model_spec import ModelSpec
from carl_bundle.spec.phases import KINDS
from carl_bundle.spec.rules import check
from carl_bundle.spec.tokenizer_files import chat_template, special_tokens
from carl_bundle.spec.tool_template import shows_tool_calls
from carl_bundle.spec.train_spec import TrainSpec
from carl_bundle.spec.unknown import Unknown, known

MAX_HASHED_BYTES = 64 * 1_048_576
"""A larger local data file is not hashed."""

RowsT = TypeVar("RowsT", bound=Rows)


def freeze(
    spec: TrainSpec, report: Callable[[str], None] = lambda note: None
) -> TrainSpec:
    """Return the spec with revisions resolved and digests recorded.

    A frozen spec freezes to itself, without network and without the model's files.

    Args:
        spec: A valid spec.
        report: Called with a sentence for each input that could not be pinned.

    Raises:
        SpecError: What was found does not go with the spec.
        UsageError: A model or dataset is not there, or cannot be pinned offline.
        RemoteError: The hub does not answer.
    """
    data = _freeze_data(spec.data, "data", report)
    update: dict[str, object] = {
        "model": _freeze_model(spec, report),
        "data": data,
    }
    for name in (*KINDS, "eval"):
        block = getattr(spec, name)
        if block.data is not None:
            frozen = (
                data
                if block.data == spec.data
                else _freeze_data(block.data, f"{name}.data", report)
            )
            update[name] = block.model_copy(update={"data": frozen})
    result = spec.model_copy(update=update)
    check(result)
    return result


def _freeze_model(spec: TrainSpec, report: Callable[[str], None]) -> ModelSettings:
    model = spec.model
    if model.is_builtin or model.frozen is not None:
        return model
    files = locate(model.id, model.revision)
    if files.commit is None and model.revision is not None:
        raise SpecError(
            [Problem("model.revision", "a local directory has none", "remove it")]
        )
    tokenizer_commit = None
    if model.tokenizer is not None and model.tokenizer != model.id:
        tokenizer = locate(model.tokenizer, None)
        tokenizer_commit = tokenizer.commit
        files = files.with_tokenizer_of(tokenizer)
    if model.chat_template is not None:
        files = files.with_template(model.chat_template)
    if spec.calls_tools:
        _check_tool_calls(files)
    found = ModelSpec.from_files(
        files, trust_remote_code=model.trust_remote_code, tokenizer=False
    )
    if files.commit is None:
        report(f"{model.id} is a local directory: its weights are not pinned")
    quantization = found.quantization
    if quantization is not None and quantization.training in ("no", "unknown"):
        message = f"the checkpoint is stored as {quantization.method}, which cannot be"
        raise SpecError(
            [Problem("model.id", f"{message} trained", quantization.remedy)]
        )
    frozen = describe(found).model_copy(update={"tokenizer_commit": tokenizer_commit})
    model = model.model_copy(update={"frozen": frozen, "revision": files.commit})
    seen = spec.model_copy(update={"model": model})
    problem = lacking(seen, files.json("config.json") or {})
    if problem:
        raise SpecError([problem])
    return model


def _check_tool_calls(files: ModelFiles) -> None:
    if shows_tool_calls(chat_template(files) or "", special_tokens(files)):
        return
    raise SpecError(
        [
            Problem(
                "model",
                "its chat template shows no calls of tools",
                "name a chat model that calls tools (model: Qwen/Qwen3-0.6B)",
            )
        ]
    )


def describe(model: ModelSpec) -> FrozenModel:
    """Return what a spec keeps of a model.

    Raises:
        SpecError: No recipe trains this kind of model.
    """
    thinking = model.thinking
    mode: Literal["none", "switchable", "always", "unknown"] = "none"
    switch = None
    if isinstance(thinking, Unknown):
        mode = "unknown"
    elif thinking is not None:
        mode, switch = thinking.mode, thinking.switch if thinking.boolean else None
    architecture, experts = known(model.architecture.name), None
    if class_entry(architecture).get("balance"):
        experts = model.experts.total if model.experts else 0
    return FrozenModel(
        commit=model.commit,
        config_sha256=model.config_sha256,
        chat_template_sha256=model.chat_template_sha256,
        model_type=model.architecture.model_type,
        architecture=architecture,
        auto_class=_loadable(model.architecture.auto_class),
        thinking=mode,
        thinking_switch=switch,
        quantization=model.quantization.method if model.quantization else None,
        vocab_size=known(model.vocab_size),
        context_length=known(model.context_length),
        experts=experts,
    )


def _loadable(
    auto_class: AutoClass | Unknown,
) -> Literal["causal-lm", "image-text-to-text"] | None:
    if isinstance(auto_class, Unknown):
        return None
    if auto_class != "multimodal-lm":
        return auto_class
    raise SpecError(
        [
            Problem(
                "model.id",
                "this model is loaded as multimodal-lm, which no recipe trains yet",
                "choose a text model, or one for images and text",
            )
        ]
    )


def _freeze_data(
    data: DataSettings, where: str, report: Callable[[str], None]
) -> DataSettings:
    if data.mix is None:
        return _freeze_rows(data, where, report)
    frozen = [
        _freeze_rows(one, f"{where}.mix.{index}", report)
        for index, one in enumerate(data.mix)
    ]
    return data.model_copy(update={"mix": tuple(frozen)})


def _freeze_rows(data: RowsT, where: str, report: Callable[[str], None]) -> RowsT:
    if data.is_builtin or data.is_gym or data.sha256 is not None:
        return data
    if data.is_file:
        return data.model_copy(update={"sha256": _file_digest(data.id, report)})
    if data.revision is not None and SHA.fullmatch(data.revision):
        return data
    if Path(data.id).expanduser().is_dir():
        remedy = "name one .jsonl, .json or .parquet file in it"
        raise SpecError([Problem(f"{where}.id", f"{data.id!r} is a directory", remedy)])
    if not is_hub_id(data.id):
        raise SpecError(
            [
                Problem(
                    f"{where}.id",
                    f"{data.id!r} is neither a data file nor a repository id",
                    "name a .jsonl, .json or .parquet file, or owner/name of the hub",
                )
            ]
        )
    from carl_bundle.spec.hub import dataset_commit

    return data.model_copy(update={"revision": dataset_commit(data.id, data.revision)})


def _file_digest(name: str, report: Callable[[str], None]) -> str | None:
    """Return the SHA-256 of a local data file, or None where that is not to be had."""
    path = Path(name).expanduser()
    try:
        size = path.stat().st_size
        if size > MAX_HASHED_BYTES:
            report(f"{name} is not pinned: it is larger than {MAX_HASHED_BYTES} bytes")
            return None
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        # The file may live on the machine that trains.
        report(f"{name} is not pinned: {error.strerror} on this machine")
        return None
