"""Which settings of `carl.yaml` the keys of CONFIG are made from."""

from __future__ import annotations

from collections.abc import Sequence

from carl_bundle.recipes.config import FIXED
from carl_bundle.spec.class_limits import COEFFICIENT
from carl_bundle.spec.document import Document, get
from carl_bundle.spec.phases import KINDS

SAMPLED = ("grpo", "rloo")
RECIPE: tuple[str, ...] = ()
"""No setting: what every script of this kind has."""


def origins(path: Sequence[str | int], spec: Document) -> tuple[str, ...]:
    """The dotted names of the settings that decide a key of CONFIG.

    Args:
        path: The keys that lead to it.
        spec: The spec in the script, as a document.
    """
    name = ".".join(map(str, path))
    table = _table(spec)
    for key in sorted(table, key=len, reverse=True):  # the most special first
        settings = table[key]
        if name == key or name.startswith(f"{key}."):
            rest = name[len(key) :]
            return tuple(setting.replace(".*", rest) for setting in settings)
    return (name,)


def _table(spec: Document) -> dict[str, tuple[str, ...]]:
    """Settings by key, where the names differ; `*` stands for what a key holds."""
    commit = _first(spec, "model.frozen.commit", "model.revision")
    tokens = _first(spec, "eval.max_new_tokens", "grpo.max_completion_length")
    return {
        "untried": (
            "model.attention",
            "sharding",
            *(f"{phase}.vllm" for phase in SAMPLED if get(spec, f"{phase}.vllm")),
        ),
        "run_dir": (_first(spec, "output_dir", "name"),),
        "environment.ACCELERATE_USE_FSDP": ("sharding",),
        "environment.FSDP_STATE_DICT_TYPE": ("sharding",),
        "environment": RECIPE,
        "self_test": RECIPE,
        "model.adapter": ("lora",),
        "model.class": ("model.frozen.architecture",),
        "model.decoder": ("model.frozen.architecture",),
        "model.options.revision": (commit,),
        "model.options.attn_implementation": ("model.attention",),
        "model.options.quantization_config": ("model.quantize",),
        "model.options": ("model.*",),
        "model.tokenizer": (_first(spec, "model.tokenizer", "model.id"),),
        "model.tokenizer_options.revision": (
            _first(spec, "model.frozen.tokenizer_commit", commit),
        ),
        "model.tokenizer_options": ("model.*",),
        "lora.lora_alpha": ("lora.alpha",),
        "lora.lora_dropout": ("lora.dropout",),
        "targets": ("lora.targets",),
        "model.template.text": ("model.chat_template",),
        "model.template": ("model.thinking",),
        **{key: names for one in KINDS for key, names in _phase(one, spec).items()},
        "eval.data.part": ("eval.items",),
        "eval.data.limit": ("eval.items",),
        "eval.data.seed": ("seed",),
        "eval.data": (_first(spec, "eval.data", "grpo.data", "data") + ".*",),
        "eval.rows": ("eval.items",),
        "eval.batch_size": RECIPE,
        "eval.max_new_tokens": (tokens,),
        "eval.weights": ("rewards",),
    }


def _phase(phase: str, spec: Document) -> dict[str, tuple[str, ...]]:
    batch = ("per_device_train_batch_size", "gradient_accumulation_steps")
    counts = ("max_steps", *batch) + ("num_generations",) * (phase in SAMPLED)
    lengths = ("max_length", "max_completion_length")
    evaluated = spec.get("method", "pipeline") == "pipeline"
    table = {
        "data.part": ("eval.items",) if evaluated else RECIPE,
        "data.seed": ("seed",),
        "validation.data.seed": ("seed",),
        "data": (_first(spec, f"{phase}.data", "data") + ".*",),
        "result": RECIPE,
        "samples_every": RECIPE,
        "report_to": ("report_to",),
        "rows": (*(f"{phase}.{name}" for name in counts), "data.limit"),
        **{
            f"{block}.longest": tuple(f"{phase}.{name}" for name in lengths)
            for block in ("data", "validation.data")
        },
        "data.too_long": (f"{phase}.too_long",),
        "data.endless": (f"{_first(spec, f'{phase}.data', 'data')}.streaming",),
        "validation.data.too_long": (f"{phase}.too_long",),
        "validation.data.columns": (
            _first(spec, f"{phase}.data", "data") + ".columns",
        ),
        "validation.data.part": ("eval.items",),
        "validation.data.limit": ("eval.items",),
        "validation.data": (_first(spec, "eval.data", "data") + ".*",),
        "validation.rows": ("eval.items",),
        "patience": ("eval.patience",),
        "trainer.eval_strategy": ("eval.every",),
        "trainer.eval_steps": ("eval.every",),
        "trainer.per_device_eval_batch_size": (f"{phase}.{batch[0]}",),
        "trainer.load_best_model_at_end": ("eval.best",),
        "trainer.metric_for_best_model": ("eval.metric",),
        "trainer.greater_is_better": ("eval.metric",),
        **{f"trainer.{name}": RECIPE for name in FIXED},
        "trainer.seed": ("seed",),
        f"trainer.{COEFFICIENT}": ("model.frozen.architecture",),
        "trainer.fsdp": ("sharding",),
        "trainer.fsdp_config.activation_checkpointing": (
            f"{phase}.gradient_checkpointing",
        ),
        "trainer.fsdp_config": ("sharding",),
        "trainer.deepspeed": ("sharding",),
        "trainer.reward_weights": ("rewards", "carl.weight"),
        "trainer.chat_template_kwargs": ("model.thinking",),
        "environments": ("environments",),
        "tools": ("tools",),
        "trainer.use_vllm": (f"{phase}.vllm",),
        "trainer.vllm_mode": (f"{phase}.vllm",),
        "trainer.model_init_kwargs": ("model.*",),
        "trainer": (f"{phase}.*", f"{phase}.trainer.*"),
        "gate": ("gate.*",),
        "metric": ("gate.metric",),
        "stop": ("gate.stop",),
        **{
            f"rewards.{index}.limit": (f"{phase}.max_completion_length",)
            for index in range(len(spec.get("rewards") or ()))
        },
        "rewards": ("rewards.*",),
        "carl": ("carl.*",),
        "cascade.carl_weight": ("carl.weight",),
        "maximum": ("rewards", "environments"),
        "non_finite": ("non_finite",),
        "cascade": ("carl.*",),
    }
    table |= _mixture(phase, spec, table)
    return {f"{phase}.{key}": settings for key, settings in table.items()}


def _mixture(
    phase: str, spec: Document, table: dict[str, tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    """Likewise for each source of a mixture, and for the rows that are evaluated."""
    where = f"{_first(spec, f'{phase}.data', 'data')}.mix"
    found: dict[str, tuple[str, ...]] = {"mix": (where,)}
    for index in range(len(get(spec, where) or ())):
        one = f"{where}.{index}"
        for key in ("part", "longest", "too_long"):
            found[f"mix.{index}.data.{key}"] = table[f"data.{key}"]
        found[f"mix.{index}.data.endless"] = (f"{one}.streaming",)
        found[f"mix.{index}"] = (f"{one}.*",)
        found[f"mix.{index}.data"] = (f"{one}.*",)
        found[f"mix.{index}.kind"] = (f"{one}.id",)
        found[f"mix.{index}.rows"] = (f"{one}.limit",)
    evaluated = {k: v for k, v in table.items() if k.startswith("validation.")}
    for key, settings in evaluated.items():
        found[key.replace("validation.", "validation.mix.0.")] = settings
    found["validation.mix"] = (_first(spec, "eval.data", "data"),)
    found["validation.mix.0.kind"] = (_first(spec, "eval.data", "data") + ".id",)
    found["validation.mix.0.weight"] = RECIPE
    return found


def _first(spec: Document, *names: str) -> str:
    """The first of the settings that the spec gives, or else the last."""
    return next((name for name in names if get(spec, name) is not None), names[-1])
