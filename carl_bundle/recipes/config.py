"""The CONFIG literal: what a script is told, phase by phase."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from carl_bundle.recipes.rows import (
    builtin_count,
    builtin_rows,
    data_block,
    limits,
    mixture_block,
    sampled_part,
    training_rows,
)
from carl_bundle.recipes.sharding import environment, sharded_arguments
from carl_bundle.recipes.untried import untried
from carl_bundle.spec.blocks import LoraSettings, Reward
from carl_bundle.spec.class_limits import COEFFICIENT, limits_of, unbalanced
from carl_bundle.spec.phases import (
    PhaseSettings,
    PreferenceSettings,
    SampledSettings,
)
from carl_bundle.spec.reward_rules import OPTIONS
from carl_bundle.spec.train_spec import TrainSpec

OWN_FIELDS = {"data", "bf16", "too_long", "vllm", "trainer"}
"""Fields of a phase that the script reads itself; the others are TRL's."""

FIXED: dict[str, Any] = {
    "save_strategy": "steps",
    "report_to": "none",
    "disable_tqdm": True,
}
"""Trainer arguments that every script sets: it records and reports by itself."""


ENVIRONMENT = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "PYTHONWARNINGS": "ignore::FutureWarning",
}
"""No usage reports; no warnings to developers of libraries that are pinned here."""


SILENCED = {
    name: {"TRL_EXPERIMENTAL_SILENCE": "1"} for name in ("orpo", "environments")
}
"""A warning that the script's docstring replaces, or the documentation."""


QUANTIZED: dict[str, dict[str, Any]] = {
    "4bit": {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": "bfloat16",
    },
    "8bit": {"quant_method": "bitsandbytes", "load_in_8bit": True},
}
"""How transformers loads a model in fewer bits; 4 bits as in QLoRA (2305.14314)."""


def configuration(spec: TrainSpec, frozen: TrainSpec) -> dict[str, Any]:
    """CONFIG of a resolved spec; `frozen` is the same spec as it was given."""
    kind = "environments" if spec.environments else spec.method
    config: dict[str, Any] = {
        "name": spec.name,
        "run_dir": spec.run_dir,
        "seed": spec.seed,
        "environment": ENVIRONMENT | SILENCED.get(kind, {}) | environment(spec),
        "model": model_block(spec),
    }
    if never := untried(spec):
        config["untried"] = never
    if spec.stall_timeout is not None:
        config["stall_timeout"] = spec.stall_timeout
    if isinstance(spec.lora, LoraSettings):
        config["lora"] = lora_block(spec.lora)
        if spec.lora.targets != "auto":
            config["targets"] = list(spec.lora.targets)
    for name, phase in spec.phases.items():
        if isinstance(phase, SampledSettings):
            config[name] = sampled_block(spec, name, phase)
        elif isinstance(phase, PreferenceSettings):
            config[name] = preference_block(spec, name, phase)
        else:
            config[name] = sft_block(spec)
    if spec.method == "pipeline":
        config["eval"] = eval_block(spec)
    if spec.push.enabled:
        config["push"] = spec.push.model_dump(mode="json", exclude={"enabled"})
    config["self_test"] = reference_vectors(spec.method)
    config["spec"] = frozen.document()
    return config


def model_block(spec: TrainSpec) -> dict[str, Any]:
    model, frozen = spec.model, spec.model.frozen
    revision = frozen.commit if frozen and frozen.commit else model.revision
    tokenizer_revision = revision
    if model.tokenizer not in (None, model.id):
        tokenizer_revision = frozen.tokenizer_commit if frozen else None
    code = {"trust_remote_code": True} if model.trust_remote_code else {}
    dtype, attention = model.dtype, model.attention
    options: dict[str, Any] = {"revision": revision, "dtype": dtype}
    options["attn_implementation"] = attention
    if model.quantize is not None:
        options["quantization_config"] = QUANTIZED[model.quantize]
    template = templated(spec) and {"template": template_block(spec)}
    decoder = limits_of(model).get("decoder")
    return {
        "id": model.id,
        "class": model_class(spec),
        "adapter": bool(spec.lora),
        "options": {**options, **code},
        "tokenizer": model.tokenizer or model.id,
        "tokenizer_options": {"revision": tokenizer_revision, **code},
        **(template or {}),
        **({"decoder": decoder} if decoder else {}),
    }


SHORT = 256
"""Completions of fewer tokens leave no room to think."""


def thinking(spec: TrainSpec) -> bool | None:
    """Whether thinking is switched on or off; None: as the chat template does it."""
    frozen, sampled = spec.model.frozen, spec.sampled
    if not (frozen and frozen.thinking_switch):
        return None
    if spec.model.thinking != "auto":
        return spec.model.thinking == "on"
    if "sft" in spec.phases and spec.sft.trainer.get("assistant_only_loss"):
        return None  # TRL knows the templates that it marks by their exact text
    short = sampled and (sampled.max_completion_length or SHORT) < SHORT
    return False if short else None


def templated(spec: TrainSpec) -> bool:
    """Whether the script changes the tokenizer's chat template."""
    switched = thinking(spec) is not None and not spec.calls_tools
    return spec.model.chat_template is not None or switched


def template_block(spec: TrainSpec) -> dict[str, Any]:
    frozen, on = spec.model.frozen, thinking(spec)
    switch = frozen.thinking_switch if frozen and on is not None else None
    return {"text": spec.model.chat_template, "switch": switch, "thinking": on}


def model_class(spec: TrainSpec) -> str:
    """The class of transformers that the checkpoint names; code of its own has none."""
    found = spec.model.frozen
    known = found and found.auto_class and not spec.model.trust_remote_code
    return (found and known and found.architecture) or "AutoModelForCausalLM"


def lora_block(lora: LoraSettings) -> dict[str, Any]:
    """Arguments of PEFT's LoraConfig; the script finds the targets of `auto`."""
    names = {"r": "r", "alpha": "lora_alpha", "dropout": "lora_dropout", "bias": "bias"}
    given = lora.model_dump(mode="json")
    return {theirs: given[ours] for ours, theirs in names.items()}


def phase_block(
    spec: TrainSpec, name: str, phase: PhaseSettings, trainer: dict[str, Any]
) -> dict[str, Any]:
    """What all training phases have in common."""
    last = name == list(spec.phases)[-1]
    data = phase.data or spec.data
    rows = {"data": training_rows(spec, data, phase, name)}
    block: dict[str, Any] = {
        **({"mix": mixture_block(spec, data.mix, name)} if data.mix else rows),
        "bf16": phase.bf16,
        "non_finite": spec.non_finite,
        "result": "model" if last else f"checkpoints/{name}/model",
    }
    if spec.report_to != ("none",):
        block["report_to"] = [name for name in spec.report_to if name != "none"]
    given = phase.model_dump(mode="json", exclude=OWN_FIELDS, exclude_none=True)
    fixed = {**FIXED, "seed": spec.seed}
    own = sampled_part(name)
    if data.is_builtin:
        block["rows"] = builtin_rows(spec, own, builtin_count(spec, phase))
    if spec.eval.every is not None:
        given |= validation_arguments(spec, phase)
        block["validation"] = validation_block(spec, name)
        if spec.eval.patience is not None:
            block["patience"] = spec.eval.patience
    if spec.vision:
        given["max_length"] = None  # rows are left out, never cut
    spread = sharded_arguments(spec, phase.gradient_checkpointing)
    block["trainer"] = {**given, **phase.trainer, **fixed, **trainer, **spread}
    if unbalanced(spec, name):
        block["trainer"][COEFFICIENT] = 0.0
    return block


def validation_block(spec: TrainSpec, name: str) -> dict[str, Any]:
    """The rows to evaluate in the course of a phase, described as its own are."""
    data = spec.eval.data or spec.data
    columns = data_block(spec, data, name)["columns"]
    rows = training_rows(spec, data, spec.phases[name], "eval")
    block: dict[str, Any] = {"data": {**rows, "columns": columns}}
    if data.is_builtin:
        block["rows"] = builtin_rows(spec, "eval", spec.eval.items or 0)
    if (spec.phases[name].data or spec.data).mix:  # loaded as its sources are
        block["data"] |= limits(spec.phases[name])
        return {"mix": [{"kind": data.source, "weight": 1.0, **block}]}
    return block


def validation_arguments(spec: TrainSpec, phase: PhaseSettings) -> dict[str, Any]:
    """Trainer arguments of an evaluation in the course of training."""
    settings, batch = spec.eval, phase.per_device_train_batch_size or 1
    if isinstance(phase, SampledSettings):  # whole groups of one prompt
        group = phase.num_generations or 1
        batch = max(1, batch // group) * group
    given: dict[str, Any] = {
        "eval_strategy": "steps",
        "eval_steps": settings.every,
        "per_device_eval_batch_size": batch,
    }
    if settings.best:
        given["save_total_limit"] = max(2, phase.save_total_limit or 2)  # best and last
        given["load_best_model_at_end"] = True
        given["metric_for_best_model"] = settings.metric
        given["greater_is_better"] = not (settings.metric or "").endswith("loss")
    return given


def reference_options(spec: TrainSpec) -> dict[str, Any]:
    """How TRL loads the reference model, which it does by the name of the policy's."""
    model = model_block(spec)
    names = ("revision", "trust_remote_code")
    given = {name: model["options"].get(name) for name in names}
    options = {name: value for name, value in given.items() if value is not None}
    own = not spec.lora and spec.method != "pipeline"
    return {"model_init_kwargs": options} if own and options else {}


def sft_block(spec: TrainSpec) -> dict[str, Any]:
    gate, block = spec.gate, phase_block(spec, "sft", spec.sft, {})
    if gate.mode == "threshold":
        block["gate"] = {
            "threshold": gate.threshold,
            "window": gate.window,
            "min_above": gate.min_above,
        }
    return {**block, "metric": gate.metric, "stop": gate.stop}


def preference_block(
    spec: TrainSpec, name: str, phase: PreferenceSettings
) -> dict[str, Any]:
    reference = {} if name == "orpo" else reference_options(spec)
    return phase_block(spec, name, phase, reference)


def sampled_block(spec: TrainSpec, name: str, phase: SampledSettings) -> dict[str, Any]:
    carl, weights = spec.carl, [reward.weight for reward in spec.rewards]
    trainer = {"reward_weights": weights + [carl.weight] * carl.enabled}
    trainer |= reference_options(spec) if phase.beta else {}
    trainer |= tool_arguments(spec) if spec.calls_tools else {}
    block = phase_block(spec, name, phase, trainer | vllm_arguments(phase))
    longest = (phase.max_length or 0) - (phase.max_completion_length or 0)
    block["trainer"].pop("max_length", None)
    for part in (block, block.get("validation", {})):
        for one in (part, *part.get("mix", ())):
            if "longest" in one.get("data", {}):  # the completion needs room too
                one["data"]["longest"] = longest
    block["samples_every"] = 10
    block["maximum"] = maximum(spec)
    limit = phase.max_completion_length
    block["rewards"] = [reward_block(reward, limit) for reward in spec.rewards]
    if spec.calls_tools:
        block["tools"] = [name.rpartition(":")[2] for name in spec.tools]
        block["environments"] = {one.label: one.weight for one in spec.environments}
    if carl.enabled:
        block["carl"] = {"weights": list(carl.weights), "tie_weight": carl.tie_weight}
        block["cascade"] = cascade_block(spec)
    return block


def tool_arguments(spec: TrainSpec) -> dict[str, Any]:
    """Thinking on or off, with the template as it is: TRL knows it by its text."""
    frozen, on = spec.model.frozen, thinking(spec)
    if frozen is None or frozen.thinking_switch is None or on is None:
        return {}
    return {"chat_template_kwargs": {frozen.thinking_switch: on}}


def vllm_arguments(phase: SampledSettings) -> dict[str, Any]:
    """How TRL generates with vLLM, which sets memory aside for the longest row."""
    if phase.vllm is None:
        return {}
    longest = phase.trainer.get("vllm_max_model_length", phase.max_length)
    given = {"use_vllm": True, "vllm_mode": phase.vllm}
    return given | (
        {"vllm_max_model_length": longest} if phase.vllm == "colocate" else {}
    )


def reward_block(reward: Reward, limit: int | None) -> dict[str, Any]:
    """What a scorer is made from; `limit` is the longest completion, in tokens."""
    if reward.function is not None:
        return {"name": None, "function": reward.function.rpartition(":")[2]}
    given = reward.model_dump(mode="json")
    own = [field for field in given if field in OPTIONS[reward.name or "function"]]
    block = {"name": reward.name, **{field: given[field] for field in own}}
    if reward.name == "length":
        block["tolerance"] = reward.tolerance or reward.target
    elif reward.name == "conciseness":
        block["limit"] = limit
    return block


def cascade_block(spec: TrainSpec) -> dict[str, Any]:
    """Arguments of the cascade, but for the maximum."""
    carl = spec.carl
    return {
        "carl_weight": carl.weight,
        "warmup_steps": carl.warmup_steps,
        "carl_start": carl.carl_start,
        "open_by": carl.open_by,
    }


def maximum(spec: TrainSpec) -> float | None:
    """The highest task reward; None with a scorer of the user's own."""
    bounded = all(reward.function is None for reward in spec.rewards)
    total = sum(reward.weight for reward in spec.rewards if reward.weight > 0)
    own = {one.weight for one in spec.environments}  # a row has one of them
    bounded &= len(own) < 2 and all(one.name for one in spec.environments)
    return total + max(own, default=0) if bounded else None


def eval_block(spec: TrainSpec) -> dict[str, Any]:
    settings, data = spec.eval, spec.eval.data or spec.data
    tokens = settings.max_new_tokens or spec.grpo.max_completion_length
    block: dict[str, Any] = {
        "data": data_block(spec, data, "eval"),
        "temperature": settings.temperature,
        "batch_size": 250 if spec.model.is_builtin else 8,
        "max_new_tokens": tokens,
        "item_pass": settings.item_pass,
        "alpha": settings.alpha,
        "weights": [reward.weight for reward in spec.rewards],
    }
    if data.is_builtin:
        block["rows"] = builtin_rows(spec, "eval", settings.items or 0)
    if settings.threshold is not None:
        block["threshold"] = settings.threshold
    return block


def reference_vectors(method: str) -> dict[str, Any]:
    """The vectors that the script's self-test needs."""
    path = files("carl_bundle.recipes") / "self_test.json"
    vectors: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if method in ("grpo", "rloo"):
        return {k: v for k, v in vectors.items() if k not in ("logits", "token_ids")}
    if method == "pipeline":
        return vectors
    return {name: vectors[name] for name in ("vocab_size", "entropy", "phi")}
