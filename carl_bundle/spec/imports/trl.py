"""A YAML file for `trl sft --config`, `trl dpo --config` and so on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from carl_bundle.errors import UsageError
from carl_bundle.spec.imports import common
from carl_bundle.spec.imports.draft import Draft
from carl_bundle.spec.imports.evaluation import SHARE, evaluation
from carl_bundle.spec.phases import KINDS, DPOLoss, GRPOLoss
from carl_bundle.spec.tables import table

_RENAMED = {
    **common.RENAMED,
    "model_name_or_path": "model.id",
    "model_revision": "model.revision",
    "attn_implementation": "model.attention",
    "max_seq_length": "{phase}.max_length",
}
_LORA = {
    "lora_r": "r",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "lora_target_modules": "targets",
}
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    **common.NEUTRAL,
    "lora_task_type": ("CAUSAL_LM",),
    "use_rslora": (False,),
    "use_dora": (False,),
    "dataset_streaming": (False,),
    "streaming": (False,),
    "ignore_bias_buffers": (False,),
}
_REASONS = {
    **common.REASONS,
    "test_split_size": SHARE,
    "dataset_streaming": "rows are loaded before the training starts",
    "streaming": "rows are loaded before the training starts",
    "reward_model_name_or_path": "rewards are functions; no recipe has a reward model",
    "env": "environment variables are no part of a spec",
    "accelerate_config": common.MACHINE,
    "num_processes": common.MACHINE,
}
_SCRIPT = {
    "reward_funcs": ("grpo", "rloo"),
    "reward_model_name_or_path": ("grpo", "rloo"),
    "max_seq_length": ("sft",),
}
"""Settings beside those of TRL's config classes -> the methods that have them."""

_LOSSES = {
    "sft": ("nll", "dft", "chunked_nll"),
    "grpo": get_args(GRPOLoss),
    "dpo": get_args(DPOLoss),
    "kto": ("kto", "apo_zero_unpaired"),
}


def read(settings: Mapping[str, Any], method: str | None, folder: Path) -> Draft:
    """Draft a spec from a configuration of TRL's command."""
    draft = Draft(settings, common.check_method(method) or method_of(settings))
    _model(draft)
    _data(draft)
    common.rename(draft, _RENAMED)
    peft = draft.take("use_peft")
    if not isinstance(peft, bool | None):
        draft.dropped["use_peft"] = "it is neither true nor false"
    common.adapters(
        draft,
        wanted=peft is True,
        names=_LORA,
        why="use_peft is not true, so TRL does not read it",
    )
    common.bits(draft)
    common.horizon(draft)
    common.warmup(draft)
    common.reporting(draft)
    mixture = "datasets" in settings
    evaluation(draft, test_split="" if mixture else "dataset_test_split")
    if draft.method in ("grpo", "rloo"):
        common.rewards(draft, "reward_funcs", "reward_weights")
        lengths(draft)
        common.vllm(draft)
        draft.move("scale_rewards", "{phase}.scale_rewards", scale)
    draft.pass_on(_NEUTRAL, _REASONS)
    return draft


def method_of(settings: Mapping[str, Any]) -> str:
    """Return the only method whose settings these can be.

    Raises:
        UsageError: Several methods fit, or none.
    """
    tables = table("trl_fields.json")
    known = {key for name in KINDS for key in tables[name]}
    given = [key for key, value in settings.items() if value is not None]
    fitting = []
    for name in KINDS:
        fields = all(key in tables[name] for key in given if key in known)
        script = all(name in _SCRIPT[key] for key in given if key in _SCRIPT)
        if fields and script and _has_loss(name, settings.get("loss_type")):
            fitting.append(name)
    if len(fitting) == 1:
        return fitting[0]
    which = ", ".join(fitting) if fitting else "no method alone"
    raise UsageError(
        f"a configuration of trl does not say its method; these settings fit {which}",
        remedy=f"add --method {'|'.join(fitting or KINDS)}",
    )


def _has_loss(method: str, loss: Any) -> bool:
    names = loss if isinstance(loss, list) else [] if loss is None else [loss]
    return all(name in _LOSSES.get(method, ()) for name in names)


def scale(value: Any) -> Any:
    """How rewards are scaled; it was once true or false."""
    return {True: "group", False: "none"}[value] if type(value) is bool else value


def lengths(draft: Draft) -> None:
    """One length for prompt and completion, from TRL's older two."""
    prompt = draft.take("max_prompt_length")
    completion = draft.settings.get("max_completion_length")
    if prompt is None:
        return
    if type(prompt) is int and type(completion) is int:
        field = f"{draft.method}.max_length"
        draft.put("max_prompt_length", field, prompt + completion)
        draft.remarks.append(
            f"{field} is max_prompt_length and max_completion_length together; "
            "longer prompts are left out, not cut"
        )
    else:
        draft.dropped["max_prompt_length"] = (
            f"{draft.method}.max_length holds prompt and completion together; "
            "max_completion_length must be given for that"
        )


def _model(draft: Draft) -> None:
    for key in ("dtype", "torch_dtype"):
        if draft.settings.get(key) == "auto":
            draft.drop(
                key,
                "auto is the type of the checkpoint there; here it is bfloat16 for "
                "adapters on a GPU, else float32",
            )
        draft.move(key, "model.dtype")


def _data(draft: Draft) -> None:
    mixture = draft.take("datasets")
    if not mixture:
        draft.move("dataset_name", "data.id")
        draft.move("dataset_config", "data.config")
        draft.move("dataset_train_split", "data.split")
        return
    for key in ("dataset_name", "dataset_config"):
        draft.drop(key, "datasets is given, which wins in TRL too")
    # The split of a mixture is always called `train`.
    draft.take("dataset_train_split")
    first = common.first_data_set(draft, mixture)
    for key, field in (("name", "config"), ("split", "split")):
        draft.move(f"{first}{key}", f"data.{field}")
    draft.drop(f"{first}columns", "columns are chosen by what the method needs")
    draft.drop(f"{first}fraction", "the whole data set is used; set data.limit")
