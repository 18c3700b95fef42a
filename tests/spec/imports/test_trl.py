"""Files of TRL's command."""

from __future__ import annotations

import re
from typing import Any

import pytest

from carl_bundle.errors import UsageError
from carl_bundle.spec.imports import Imported, translate
from carl_bundle.spec.tables import table
from carl_bundle.spec.train_spec import TrainSpec

BASE = {"model_name_or_path": "org/model", "dataset_name": "org/rows"}
GRPO = {**BASE, "reward_funcs": ["my.rewards.score"], "num_generations": 8}


def read(settings: dict[str, Any], method: str | None = None) -> Imported:
    return translate({**BASE, **settings}, "trl", method)


def spec_of(result: Imported) -> TrainSpec:
    assert result.problems == ()
    return TrainSpec.model_validate(result.document)


WHOLE: dict[str, Any] = {
    "model_revision": "v2",
    "torch_dtype": "bfloat16",
    "attn_implementation": "sdpa",
    "dataset_config": "main",
    "dataset_train_split": "train_sft",
    "run_name": "try-1",
    "output_dir": "out",
    "seed": 7,
    "learning_rate": 2e-4,
    "num_train_epochs": 2,
    "max_length": 2048,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 8,
    "lr_scheduler_type": "linear",
    "warmup_ratio": 0.1,
    "weight_decay": 0.01,
    "max_grad_norm": 0.5,
    "logging_steps": 5,
    "save_steps": 25,
    "gradient_checkpointing": True,
    "packing": True,
    "optim": "adamw_torch",
    "report_to": "wandb",
    "push_to_hub": True,
    "hub_model_id": "me/mine",
    "hub_private_repo": False,
    "use_peft": True,
    "lora_r": 32,
    "lora_alpha": 64,
    "lora_dropout": 0.1,
    "lora_target_modules": ["q_proj", "v_proj"],
}
WHOLE_SPEC: dict[str, Any] = {
    "method": "sft",
    "name": "try-1",
    "seed": 7,
    "output_dir": "out",
    "model": {
        "id": "org/model",
        "revision": "v2",
        "dtype": "bfloat16",
        "attention": "sdpa",
    },
    "data": {"id": "org/rows", "config": "main", "split": "train_sft"},
    "lora": {
        "r": 32,
        "alpha": 64.0,
        "dropout": 0.1,
        "targets": ["q_proj", "v_proj"],
    },
    "sft": {
        "learning_rate": 2e-4,
        "num_train_epochs": 2,
        "max_length": 2048,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 8,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0.1,
        "weight_decay": 0.01,
        "max_grad_norm": 0.5,
        "logging_steps": 5,
        "save_steps": 25,
        "gradient_checkpointing": True,
        "trainer": {"packing": True, "optim": "adamw_torch"},
    },
    "report_to": ["wandb"],
    "push": {"enabled": True, "repo": "me/mine", "private": False},
}


def test_a_whole_file_becomes_a_spec() -> None:
    result = read(WHOLE)
    assert result.dropped == {}
    assert spec_of(result) == TrainSpec.model_validate(WHOLE_SPEC)


@pytest.mark.parametrize(
    ("settings", "method"),
    [
        ({"packing": True}, "sft"),
        ({"max_seq_length": 9}, "sft"),
        ({"loss_type": "dft"}, "sft"),
        ({"loss_type": "ipo"}, "dpo"),
        ({"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.1]}, "dpo"),
        ({"desirable_weight": 1.0}, "kto"),
        ({"loss_type": "dr_grpo"}, "grpo"),
        ({"reward_funcs": ["a.b"], "epsilon": 0.2, "scale_rewards": True}, "grpo"),
        ({"reward_funcs": ["a.b"], "normalize_advantages": True}, "rloo"),
        ({"generate_during_eval": False}, "orpo"),
    ],
)
def test_the_settings_of_one_method_alone_tell_it(
    settings: dict[str, Any], method: str
) -> None:
    assert read(settings).document["method"] == method


@pytest.mark.parametrize(
    ("settings", "fitting"),
    [
        ({}, "sft|grpo|rloo|dpo|kto|orpo"),
        ({"reward_funcs": ["a.b"]}, "grpo|rloo"),
        ({"beta": 0.1, "max_length": 9}, "dpo|kto|orpo"),
    ],
)
def test_otherwise_the_user_is_asked_for_it(
    settings: dict[str, Any], fitting: str
) -> None:
    with pytest.raises(UsageError, match="does not say its method") as caught:
        read(settings)
    assert caught.value.remedy == f"add --method {fitting}"
    assert read(settings, "orpo").document["method"] == "orpo"


def test_a_method_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="no method 'pipeline' to import to"):
        read({}, "pipeline")


def test_without_peft_all_weights_are_trained() -> None:
    result = read({"lora_r": 8, "packing": False})
    assert spec_of(result).lora is False
    assert "use_peft" in result.dropped["lora_r"]


@pytest.mark.parametrize("given", ["all-linear", ["all-linear"]])
def test_all_linear_layers_are_found_at_run_time(given: Any) -> None:
    result = read({"use_peft": True, "lora_target_modules": given}, "sft")
    assert result.document["lora"] == {"targets": "auto"}


def test_a_regular_expression_for_layers_is_listed() -> None:
    result = read({"use_peft": True, "lora_target_modules": r".*(q|v)_proj"}, "sft")
    assert result.document["lora"] == {}
    assert "lora_target_modules" in result.dropped


@pytest.mark.parametrize(
    ("settings", "horizon"),
    [
        ({"max_steps": -1, "num_train_epochs": 3.0}, {"num_train_epochs": 3.0}),
        ({"max_steps": 9, "num_train_epochs": 3.0}, {"max_steps": 9}),
        ({"warmup_steps": 9, "warmup_ratio": 0.1}, {"warmup_steps": 9}),
        ({"warmup_steps": 0, "warmup_ratio": 0.1}, {"warmup_steps": 0.1}),
        ({"learning_rate": "2e-4"}, {"learning_rate": 2e-4}),
        ({"bf16": "yes"}, {"bf16": True}),
    ],
)
def test_what_wins_there_wins_here(
    settings: dict[str, Any], horizon: dict[str, Any]
) -> None:
    assert read(settings, "sft").document["sft"] == horizon


def test_rewards_come_from_their_import_paths_with_their_weights() -> None:
    result = read(
        {
            "reward_funcs": ["think_format_reward", "my.rewards.score"],
            "reward_weights": [0.5, 2.0],
        },
        "grpo",
    )
    think, own = spec_of(result).rewards
    assert (own.function, own.weight) == ("my/rewards.py:score", 2.0)
    assert think.weight == 0.5
    from trl.rewards import think_format_reward

    for text in (
        "<think>a\nb</think>c",
        "<think>a<think>b</think>c",
        "x\n<think>a</think>",
        "<think>a",
    ):
        ours = float(bool(re.compile(str(think.pattern), re.DOTALL).search(text)))
        assert [ours] == think_format_reward([[{"content": text}]])


def test_a_reward_that_carl_has_not_is_a_problem() -> None:
    both = read({"reward_funcs": ["accuracy_reward", "a.b"]}, "grpo")
    assert [p.where for p in both.problems] == ["rewards"]
    assert "accuracy_reward" in both.problems[0].message
    alone = read({"reward_funcs": ["accuracy_reward"]}, "grpo")
    assert [p.where for p in alone.problems] == ["rewards"]
    assert "needs at least one task reward" in alone.problems[0].message
    assert "accuracy_reward" in alone.dropped["reward_funcs"]


def test_weights_that_do_not_match_the_functions_are_listed() -> None:
    result = read({"reward_funcs": ["a.b"], "reward_weights": [1.0, 2.0]}, "grpo")
    assert result.document["rewards"] == [{"function": "a.py:b"}]
    assert "reward_weights" in result.dropped


def test_dropout_gives_way_to_the_coherence_reward() -> None:
    result = read({**GRPO, "use_peft": True, "lora_dropout": 0.05}, "grpo")
    assert spec_of(result).lora
    assert "random" in result.dropped["lora_dropout"]


def test_older_names_of_grpo_keep_their_meaning() -> None:
    result = read(
        {
            **GRPO,
            "max_prompt_length": 512,
            "max_completion_length": 256,
            "scale_rewards": False,
        },
        "grpo",
    )
    grpo = spec_of(result).grpo
    assert (grpo.max_length, grpo.max_completion_length) == (768, 256)
    assert grpo.scale_rewards == "none"
    assert any("left out, not cut" in remark for remark in result.remarks)


def test_a_batch_that_holds_no_whole_group_is_a_problem_not_a_guess() -> None:
    result = read({**GRPO, "per_device_train_batch_size": 3}, "grpo")
    assert result.document["grpo"]["per_device_train_batch_size"] == 3
    assert "whole groups of 8" in result.problems[0].message


def test_an_evaluation_every_so_many_steps() -> None:
    result = read(
        {
            "eval_strategy": "steps",
            "eval_steps": 50,
            "save_steps": 50,
            "dataset_config": "main",
            "dataset_test_split": "dev",
            "load_best_model_at_end": True,
            "metric_for_best_model": "eval_loss",
            "greater_is_better": False,
            "per_device_eval_batch_size": 2,
        },
        "sft",
    )
    assert result.dropped == {}
    assert spec_of(result).sft.trainer == {"per_device_eval_batch_size": 2}
    assert result.document["eval"] == {
        "every": 50,
        "best": True,
        "metric": "eval_loss",
        "data": {"id": "org/rows", "config": "main", "split": "dev"},
    }


@pytest.mark.parametrize("strategy", [{}, {"eval_strategy": "no"}])
def test_without_a_strategy_nothing_is_evaluated(strategy: dict[str, str]) -> None:
    result = read({**strategy, "eval_steps": 50, "dataset_test_split": "dev"}, "sft")
    assert "eval" not in result.document
    assert result.dropped.keys() == {"eval_steps", "dataset_test_split"}


def test_a_mixture_is_a_problem_and_its_first_data_set_is_named() -> None:
    mixture = [
        {"path": "json", "data_files": "a.jsonl", "split": "train"},
        {"path": "org/b", "columns": ["prompt"]},
    ]
    settings = {"datasets": mixture, "dataset_name": "org/unread"}
    result = read(settings, "sft")
    assert result.document["data"] == {"id": "a.jsonl", "split": "train"}
    assert [p.where for p in result.problems] == ["datasets"]
    assert "datasets is given" in result.dropped["dataset_name"]


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("hub_token", "hf_" + "a" * 30, "HF_TOKEN"),
        ("env", {"SECRET": "x"}, "environment variables"),
        ("use_bnb_nested_quant", True, "model.quantize"),
        ("trust_remote_code", True, "40-digit"),
        ("eval_strategy", "epoch", "eval.every"),
        ("save_strategy", "epoch", "sft.save_steps"),
        ("dtype", "float16", "float16"),
        ("dtype", "auto", "type of the checkpoint"),
        ("logging_steps", 0.1, "integer"),
        ("lr_scheduler_type", "reduce_lr_on_plateau", "reduce_lr_on_plateau"),
        ("run_name", "a b", "does not have the form"),
        ("report_to", ["wandb", "mlflow"], "mlflow"),
        ("use_liger_kernel", True, "fused loss"),
        ("made_up", 1, "no counterpart"),
        ("num_generations", 8, "no counterpart"),
    ],
)
def test_what_is_left_out_is_listed_with_a_reason(
    key: str, value: Any, reason: str
) -> None:
    result = read({key: value}, "sft")
    assert reason in result.dropped[key]
    assert "hf_a" not in str(result)
    spec_of(result)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("load_in_4bit", False),
        ("trust_remote_code", False),
        ("eval_strategy", "no"),
        ("save_strategy", "steps"),
        ("fp16", False),
        ("optim", None),
        ("made_up", None),
    ],
)
def test_what_asks_for_nothing_else_is_not_listed(key: str, value: Any) -> None:
    assert read({key: value}, "sft").dropped == {}


@pytest.mark.parametrize("method", ["sft", "grpo", "rloo", "dpo", "kto", "orpo"])
def test_no_field_of_trl_is_lost(method: str) -> None:
    """Each field alone: it stands in the spec, or it is listed."""
    without = read({"reward_funcs": ["a.b"]}, method)
    for name in table("trl_fields.json")[method]:
        result = read({"reward_funcs": ["a.b"], name: "steps-of-7"}, method)
        changed = result.document != without.document
        assert changed or name in result.dropped, name


def test_a_missing_model_or_data_set_is_refused_by_the_spec_too() -> None:
    result = translate({"packing": True}, "trl")
    assert [p.where for p in result.problems] == ["model.id", "data.id"]
    assert result.document["model"] == {"id": None}
    with pytest.raises(UsageError):
        TrainSpec.model_validate(result.document)


def test_vllm_is_a_setting_of_the_phase_and_its_own_mean_nothing_without_it() -> None:
    given = {"vllm_server_port": 8001}
    with_it = read({**GRPO, **given, "use_vllm": True, "vllm_mode": "server"}, "grpo")
    phase = spec_of(with_it).grpo
    assert (phase.vllm, phase.trainer) == ("server", {"vllm_server_port": 8001})
    assert (
        spec_of(read({**GRPO, **given, "use_vllm": True}, "grpo")).grpo.vllm
        == "colocate"
    )
    without = read({**GRPO, **given}, "grpo")
    assert spec_of(without).grpo.vllm is None
    assert "use_vllm" in without.dropped["vllm_server_port"]
