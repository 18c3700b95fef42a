"""A YAML file for `axolotl train`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from carl_bundle.spec.imports import common
from carl_bundle.spec.imports.axolotl_data import read_data
from carl_bundle.spec.imports.draft import Draft
from carl_bundle.spec.imports.evaluation import ROWS, evaluation
from carl_bundle.spec.imports.trl import scale

_METHODS = {
    "dpo": "dpo",
    "ipo": "dpo",
    "kto": "kto",
    "orpo": "orpo",
    "grpo": "grpo",
    "gdpo": "grpo",
    True: "dpo",
}
_RENAMED = {
    **common.RENAMED,
    "base_model": "model.id",
    "revision_of_model": "model.revision",
    "tokenizer_config": "model.tokenizer",
    "attn_implementation": "model.attention",
    "eval_batch_size": "{phase}.trainer.per_device_eval_batch_size",
    "micro_batch_size": "{phase}.per_device_train_batch_size",
    "lr_scheduler": "{phase}.lr_scheduler_type",
    "optimizer": "{phase}.trainer.optim",
    "noisy_embedding_alpha": "{phase}.trainer.neftune_noise_alpha",
    "dataset_processes": "{phase}.trainer.dataset_num_proc",
    "default_system_message": "data.system_prompt",
    "wandb_name": "name",
}
_OF_METHOD = {
    "sft": {"sample_packing": "sft.trainer.packing"},
    "dpo": {
        "dpo_label_smoothing": "dpo.trainer.label_smoothing",
        "dpo_use_weighting": "dpo.trainer.use_weighting",
        "dpo_padding_free": "dpo.trainer.padding_free",
    },
    "kto": {
        "kto_desirable_weight": "kto.trainer.desirable_weight",
        "kto_undesirable_weight": "kto.trainer.undesirable_weight",
    },
}
_BETAS = ("trl.beta", "rl_beta", "dpo_beta", "orpo_alpha")
_LORA = {
    "lora_r": "r",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "lora_target_linear": "targets",
    "lora_target_modules": "targets",
}
_ATTENTION = {
    "flash_attention": "flash_attention_2",
    "sdp_attention": "sdpa",
    "flex_attention": "flex_attention",
    "eager_attention": "eager",
}
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    **common.NEUTRAL,
    **dict.fromkeys(_ATTENTION, (False,)),
    "auto_resume_from_checkpoints": (True, False),
    "bf16": ("auto",),
    "bfloat16": (False,),
    "chat_template": ("tokenizer_default",),
    "eval_sample_packing": (False,),
    "float16": (False,),
    "float32": (False,),
    "group_by_length": (False,),
    "is_llama_derived_model": (True, False),
    "is_mistral_derived_model": (True, False),
    "is_qwen_derived_model": (True, False),
    "is_falcon_derived_model": (True, False),
    "model_type": ("AutoModelForCausalLM",),
    "peft_use_dora": (False,),
    "peft_use_rslora": (False,),
    "process_reward_model": (False,),
    "remove_unused_columns": (True, False),
    "reward_model": (False,),
    "s2_attention": (False,),
    "sample_packing": (False,),
    "save_strategy": ("steps",),
    "shuffle_merged_datasets": (True,),
    "strict": (True, False),
    "tokenizer_type": ("AutoTokenizer",),
    "tokenizer_use_fast": (True,),
    "train_on_inputs": (False,),
    "pad_to_sequence_len": (False,),
    "use_comet": (False,),
    "use_mlflow": (False,),
    "val_set_size": (0,),
    "xformers_attention": (False,),
}
_REASONS = {
    **common.REASONS,
    "adam_beta3": "no optimizer of transformers has it",
    "batch_size": "it counts all GPUs; set the phase's gradient_accumulation_steps",
    "chat_template": common.NO_TEMPLATE,
    "chat_template_jinja": common.NO_TEMPLATE,
    "evals_per_epoch": "an evaluation counts steps; set eval.every",
    "test_datasets": ROWS,
    "bnb_config_kwargs": common.BITS,
    "device_map": common.MACHINE,
    "hf_use_auth_token": common.SECRET,
    "lora_model_dir": "training starts from new adapters; merge these into the model",
    "max_prompt_len": "set the phase's max_length: prompt and completion together",
    "model_type": "the class of the model follows from its config",
    "save_strategy": "checkpoints are counted in steps; set the phase's save_steps",
    "saves_per_epoch": "checkpoints are counted in steps; set the phase's save_steps",
    "special_tokens": "the tokenizer is used as it is; set model.tokenizer",
    "tokens": "the tokenizer is used as it is; set model.tokenizer",
    "tokenizer_type": "the class of the tokenizer follows from its files",
    "wandb_project": "set WANDB_PROJECT in the environment that trains",
    "wandb_entity": "set WANDB_ENTITY in the environment that trains",
}
_VLLM = {"trl.vllm_max_model_len": "{phase}.trainer.vllm_max_model_length"}


def read(settings: Mapping[str, Any], method: str | None, folder: Path) -> Draft:
    """Draft a spec from a configuration of axolotl.

    Raises:
        UsageError: It trains in a way that CARL has not.
    """
    draft = Draft(settings, common.check_method(method) or _method_of(settings))
    _spread(draft, "trl")
    _training(draft, method)
    _precision(draft)
    _template(draft)
    _reporters(draft)
    read_data(draft)
    common.rename(draft, _RENAMED)
    common.rename(draft, _OF_METHOD.get(draft.method, {}))
    _adapters(draft)
    common.bits(draft)
    common.horizon(draft, "num_epochs")
    common.warmup(draft)
    evaluation(
        draft,
        held_out="val_set_size",
        patience="early_stopping_patience",
        needs_strategy=False,
    )
    _too_long(draft)
    if draft.method in ("grpo", "rloo"):
        common.rewards(draft, "trl.reward_funcs", "trl.reward_weights")
        draft.move("trl.scale_rewards", "{phase}.scale_rewards", scale)
        draft.drop("sequence_len", _REASONS["max_prompt_len"])
    draft.move("sequence_len", "{phase}.max_length")
    if draft.settings.get("trl.use_vllm") is True:
        common.rename(draft, _VLLM)
    common.vllm(draft, "trl.")
    draft.move("fsdp", "sharding", _sharding)
    draft.pass_on(_NEUTRAL, _REASONS, prefix="trl.")
    return draft


def _method_of(settings: Mapping[str, Any]) -> str:
    for key in ("reward_model", "process_reward_model"):
        if settings.get(key):
            raise common.no_method(key, settings[key])
    rl = settings.get("rl")
    if rl is None or rl is False:
        return "sft"
    if not isinstance(rl, str | bool) or rl not in _METHODS:
        raise common.no_method("rl", rl)
    return _METHODS[rl]


def _spread(draft: Draft, block: str) -> None:
    """Make settings of what a block holds."""
    inner = draft.settings.get(block)
    if isinstance(inner, dict):
        draft.take(block)
        draft.settings |= {
            f"{block}.{key}": value for key, value in inner.items() if value is not None
        }


def _training(draft: Draft, method: str | None) -> None:
    rl = draft.take("rl")
    if rl and method is not None and _METHODS.get(str(rl)) != method:
        draft.dropped["rl"] = f"--method {method} is given"
    elif rl == "ipo":
        draft.put("rl", "dpo.loss_type", "ipo")
    elif rl == "gdpo":
        draft.put("rl", "grpo.multi_objective_aggregation", "normalize_then_sum")
    if draft.method != "sft":
        for key in _BETAS:
            draft.move(key, "{phase}.beta")
    else:
        common.train_on_prompts(draft, "train_on_inputs")


def _precision(draft: Draft) -> None:
    for key in ("bfloat16", "float32"):
        if draft.settings.get(key) is True:
            draft.put(key, "model.dtype", key)
    for key, name in _ATTENTION.items():
        if draft.settings.get(key) is True:
            draft.put(key, "model.attention", name)


def _template(draft: Draft) -> None:
    """A chat template in the file; one that is named lies within axolotl."""
    given = draft.settings.get("chat_template_jinja")
    if isinstance(given, str) and "{" in given:
        draft.put("chat_template_jinja", "model.chat_template", given)
        if draft.settings.get("chat_template") == "jinja":
            draft.take("chat_template")


def _reporters(draft: Draft) -> None:
    names = []
    project = draft.settings.get("wandb_project")
    if draft.take("use_wandb") or project:
        names.append("wandb")
    if draft.take("use_tensorboard"):
        names.append("tensorboard")
    if names:
        draft.put("use_wandb", "report_to", names)
    if draft.settings.get("hub_model_id"):
        # Naming a repository is what makes axolotl push.
        draft.imply("push.enabled", True)


def _too_long(draft: Draft) -> None:
    """What becomes of longer rows; axolotl leaves them out unless told otherwise."""
    draft.settings.setdefault("excess_length_strategy", "drop")
    if draft.method in ("grpo", "rloo") or "sequence_len" not in draft.settings:
        draft.take("excess_length_strategy")
    draft.move("excess_length_strategy", "{phase}.too_long", _policy)


def _policy(value: Any) -> Any:
    return "refuse" if value == "raise" else value


def _sharding(value: Any) -> Any:
    """FSDP by any of its options; what they say of it the script decides itself."""
    return "fsdp2" if value and isinstance(value, list | str) else value or None


def _adapters(draft: Draft) -> None:
    adapter = draft.take("adapter")
    if adapter not in (None, False, "lora", "qlora"):
        draft.refuse(
            "lora",
            f"CARL has no adapter {str(adapter)[:60]!r}; all weights would be trained",
            "remove `lora: false` to train with LoRA",
        )
    common.adapters(
        draft,
        wanted=adapter in ("lora", "qlora"),
        names=_LORA,
        why="adapter names none, so axolotl does not read it",
    )
