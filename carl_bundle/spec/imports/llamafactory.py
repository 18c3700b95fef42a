"""A YAML file for `llamafactory-cli train`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from carl_bundle.spec.imports import common
from carl_bundle.spec.imports.draft import Draft
from carl_bundle.spec.imports.evaluation import ROWS, evaluation
from carl_bundle.spec.imports.llamafactory_data import read_data

_STAGES = {"sft": "sft", "dpo": "dpo", "kto": "kto"}
_RENAMED = {
    **common.RENAMED,
    "model_name_or_path": "model.id",
    "model_revision": "model.revision",
    "cutoff_len": "{phase}.max_length",
    "preprocessing_num_workers": "{phase}.trainer.dataset_num_proc",
}
_OF_METHOD = {
    "sft": {"packing": "sft.trainer.packing"},
    "dpo": {
        "pref_beta": "dpo.beta",
        "dpo_label_smoothing": "dpo.trainer.label_smoothing",
        "ld_alpha": "dpo.trainer.ld_alpha",
    },
    "orpo": {"pref_beta": "orpo.beta"},
    "kto": {
        "pref_beta": "kto.beta",
        "kto_chosen_weight": "kto.trainer.desirable_weight",
        "kto_rejected_weight": "kto.trainer.undesirable_weight",
    },
}
_LORA = {
    "lora_rank": "r",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "lora_target": "targets",
}
_ATTENTION = {
    "disabled": "eager",
    "sdpa": "sdpa",
    "fa2": "flash_attention_2",
    "fa3": "flash_attention_3",
}
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    **common.NEUTRAL,
    "disable_shuffling": (False,),
    "enable_liger_kernel": (False,),
    "flash_attn": ("auto",),
    "include_num_input_tokens_seen": (False,),
    "mask_history": (False,),
    "mix_strategy": ("concat",),
    "neat_packing": (False,),
    "overwrite_cache": (True, False),
    "packing": (False,),
    "plot_loss": (True, False),
    "pref_ftx": (0,),
    "pure_bf16": (False,),
    "streaming": (False,),
    "train_on_prompt": (False,),
    "upcast_layernorm": (False,),
    "use_dora": (False,),
    "use_fast_tokenizer": (True,),
    "use_rslora": (False,),
    "use_unsloth": (False,),
    "val_size": (0,),
}
_REASONS = {
    **common.REASONS,
    "adapter_name_or_path": "training starts from new adapters; merge these into the "
    "model",
    "double_quantization": common.BITS,
    "enable_liger_kernel": "TRL has a fused loss of its own",
    "eval_dataset": ROWS,
    "flash_attn": "it is none of auto, disabled, sdpa, fa2 and fa3",
    "hf_hub_token": common.SECRET,
    "mask_history": "every turn of the answers is trained",
    "neat_packing": "set sft.trainer.packing and padding_free, with flash attention",
    "pref_ftx": "set dpo.loss_type: [sigmoid, sft] and dpo.trainer.loss_weights",
    "quantization_bit": common.BITS,
    "quantization_method": common.BITS,
    "quantization_type": common.BITS,
    "streaming": "rows are loaded before the training starts",
    "template": common.NO_TEMPLATE,
}


def read(settings: Mapping[str, Any], method: str | None, folder: Path) -> Draft:
    """Draft a spec from a configuration of LLaMA-Factory.

    Raises:
        UsageError: It trains in a way that CARL has not.
    """
    draft = Draft(settings, common.check_method(method) or _method_of(settings))
    _training(draft, method)
    _switches(draft)
    read_data(draft, folder)
    common.rename(draft, _RENAMED)
    common.rename(draft, _OF_METHOD.get(draft.method, {}))
    _adapters(draft)
    common.bits(draft)
    common.horizon(draft)
    common.warmup(draft)
    common.reporting(draft)
    evaluation(draft, held_out="val_size", patience="early_stopping_steps")
    draft.pass_on(_NEUTRAL, _REASONS)
    return draft


def _method_of(settings: Mapping[str, Any]) -> str:
    stage, loss = settings.get("stage", "sft"), settings.get("pref_loss")
    if not isinstance(stage, str) or stage not in _STAGES:
        raise common.no_method("stage", stage)
    if stage == "dpo" and loss == "simpo":
        raise common.no_method("pref_loss", loss)
    return "orpo" if stage == "dpo" and loss == "orpo" else _STAGES[stage]


def _training(draft: Draft, method: str | None) -> None:
    stage = draft.take("stage")
    if method is not None and stage not in (None, method):
        draft.dropped["stage"] = f"--method {method} is given"
    if draft.method == "dpo":
        draft.move("pref_loss", "dpo.loss_type")
    elif draft.method == "orpo" and draft.settings.get("pref_loss") == "orpo":
        draft.take("pref_loss")


def _switches(draft: Draft) -> None:
    if draft.settings.get("pure_bf16") is True:
        draft.put("pure_bf16", "model.dtype", "bfloat16")
    attention = draft.settings.get("flash_attn")
    if isinstance(attention, str) and attention in _ATTENTION:
        draft.put("flash_attn", "model.attention", _ATTENTION[attention])
    thinking = draft.settings.get("enable_thinking")
    if isinstance(thinking, bool):
        draft.put("enable_thinking", "model.thinking", "on" if thinking else "off")
    off = draft.settings.get("disable_gradient_checkpointing")
    if isinstance(off, bool):
        key = "disable_gradient_checkpointing"
        draft.put(key, "{phase}.gradient_checkpointing", not off)
    if draft.method == "sft":
        common.train_on_prompts(draft, "train_on_prompt")


def _adapters(draft: Draft) -> None:
    kind = draft.take("finetuning_type") or "lora"
    if kind not in ("lora", "full"):
        draft.refuse(
            "lora",
            f"CARL has no {str(kind)[:60]!r} training; all weights would be trained",
            "remove `lora: false` to train with LoRA",
        )
    rank = draft.settings.get("lora_rank")
    if kind == "lora" and "lora_alpha" not in draft.settings and type(rank) is int:
        # LLaMA-Factory's rule for an alpha that is not given.
        draft.settings["lora_alpha"] = 2 * rank
    common.adapters(
        draft,
        wanted=kind == "lora",
        names=_LORA,
        why=f"finetuning_type is {str(kind)[:60]}",
    )
