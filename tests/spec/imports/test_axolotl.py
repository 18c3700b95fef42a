"""Files of axolotl."""

from __future__ import annotations

from typing import Any

import pytest

from carl_bundle.errors import UsageError
from carl_bundle.spec.imports import Imported, translate
from carl_bundle.spec.train_spec import TrainSpec

BASE: dict[str, Any] = {
    "base_model": "org/model",
    "datasets": [{"path": "rows.jsonl", "ds_type": "json", "type": "chat_template"}],
}
OWN = {"field_instruction": "q", "field_output": "a"}


def read(settings: dict[str, Any], method: str | None = None) -> Imported:
    return translate({**BASE, **settings}, "axolotl", method)


def spec_of(result: Imported) -> TrainSpec:
    assert result.problems == ()
    return TrainSpec.model_validate(result.document)


def rows(path: str = "rows.jsonl", **settings: Any) -> dict[str, Any]:
    return {"datasets": [{"path": path, **settings}]}


WHOLE: dict[str, Any] = {
    **rows("org/rows", name="main", split="train[:9]", type=OWN),
    "tokenizer_config": "org/tokenizer",
    "flash_attention": True,
    "adapter": "lora",
    "lora_r": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.05,
    "lora_target_linear": True,
    "sequence_len": 4096,
    "sample_packing": True,
    "micro_batch_size": 2,
    "gradient_accumulation_steps": 4,
    "num_epochs": 4,
    "optimizer": "adamw_torch",
    "lr_scheduler": "cosine",
    "learning_rate": "0.0002",
    "warmup_steps": 10,
    "weight_decay": 0.0,
    "bf16": "auto",
    "tf32": False,
    "gradient_checkpointing": True,
    "logging_steps": 1,
    "output_dir": "./out",
    "wandb_name": "try",
    "use_wandb": True,
    "hub_model_id": "me/mine",
    "special_tokens": None,
    "strict": False,
    "val_set_size": 0.0,
    "seed": 1,
}
WHOLE_SPEC: dict[str, Any] = {
    "method": "sft",
    "name": "try",
    "seed": 1,
    "output_dir": "./out",
    "model": {
        "id": "org/model",
        "tokenizer": "org/tokenizer",
        "attention": "flash_attention_2",
    },
    "data": {
        "id": "org/rows",
        "config": "main",
        "split": "train[:9]",
        "columns": {"prompt": "q", "completion": "a"},
    },
    "lora": {"r": 8, "alpha": 16.0, "dropout": 0.05},
    "sft": {
        "max_length": 4096,
        "too_long": "drop",
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 4,
        "num_train_epochs": 4,
        "lr_scheduler_type": "cosine",
        "learning_rate": 0.0002,
        "warmup_steps": 10,
        "weight_decay": 0.0,
        "gradient_checkpointing": True,
        "logging_steps": 1,
        "trainer": {"packing": True, "optim": "adamw_torch", "tf32": False},
    },
    "report_to": ["wandb"],
    "push": {"enabled": True, "repo": "me/mine"},
}


def test_a_whole_file_becomes_a_spec() -> None:
    result = read(WHOLE)
    assert result.dropped == {}
    assert spec_of(result) == TrainSpec.model_validate(WHOLE_SPEC)


@pytest.mark.parametrize(
    ("rl", "method", "phase"),
    [
        (None, "sft", {}),
        ("dpo", "dpo", {}),
        (True, "dpo", {}),
        ("ipo", "dpo", {"loss_type": "ipo"}),
        ("kto", "kto", {}),
        ("orpo", "orpo", {}),
        ("grpo", "grpo", {}),
        ("gdpo", "grpo", {"multi_objective_aggregation": "normalize_then_sum"}),
    ],
)
def test_rl_names_the_method(rl: Any, method: str, phase: dict[str, Any]) -> None:
    document = read({"rl": rl}).document
    assert document["method"] == method
    assert document.get(method, {}) == phase


@pytest.mark.parametrize("settings", [{"rl": "simpo"}, {"reward_model": True}])
def test_a_training_that_carl_has_not_needs_a_method(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="no counterpart") as caught:
        read(settings)
    assert "--method" in str(caught.value.remedy)
    result = read({**settings, "learning_rate": 1e-5}, "dpo")
    assert result.document["dpo"] == {"learning_rate": 1e-5}
    assert next(iter(settings)) in result.dropped


@pytest.mark.parametrize(
    ("settings", "phase"),
    [
        ({"rl": "dpo", "rl_beta": 0.3}, {"beta": 0.3}),
        ({"rl": "orpo", "orpo_alpha": 0.2}, {"beta": 0.2}),
        (
            {"rl": "kto", "kto_desirable_weight": 0.2},
            {"trainer": {"desirable_weight": 0.2}},
        ),
        (
            {"rl": "dpo", "dpo_label_smoothing": 0.1},
            {"trainer": {"label_smoothing": 0.1}},
        ),
    ],
)
def test_settings_of_a_method(settings: dict[str, Any], phase: dict[str, Any]) -> None:
    document = read(settings).document
    assert document[document["method"]] == phase


def test_grpo_with_the_block_of_trl() -> None:
    result = read(
        {
            "rl": "grpo",
            "datasets": [{"path": "org/rows"}],
            "trl": {
                "beta": 0.001,
                "num_generations": 2,
                "max_completion_length": 128,
                "reward_funcs": ["rewards.form", "rewards.right"],
                "reward_weights": [1.0, 2.0],
                "scale_rewards": True,
                "use_vllm": True,
                "vllm_mode": "server",
                "vllm_max_model_len": 800,
                "vllm_device": "auto",
                "top_k": None,
            },
            "sequence_len": 512,
        }
    )
    spec = spec_of(result)
    assert [(r.function, r.weight) for r in spec.rewards] == [
        ("rewards.py:form", 1.0),
        ("rewards.py:right", 2.0),
    ]
    assert (spec.grpo.beta, spec.grpo.num_generations) == (0.001, 2)
    assert spec.grpo.scale_rewards == "group"
    assert spec.grpo.vllm == "server"
    assert spec.grpo.trainer == {"vllm_max_model_length": 800}
    assert result.dropped.keys() == {"trl.vllm_device", "sequence_len"}
    assert any("carl.enabled" in remark for remark in result.remarks)


def test_an_evaluation_every_so_many_steps() -> None:
    result = read(
        {
            "eval_steps": 50,
            "save_steps": 100,
            "val_set_size": 0.1,
            "early_stopping_patience": 3,
            "load_best_model_at_end": True,
            "eval_batch_size": 2,
        }
    )
    spec = spec_of(result).eval
    assert (spec.every, spec.patience, spec.best) == (50, 3, True)
    assert result.dropped.keys() == {"val_set_size", "save_steps"}


@pytest.mark.parametrize(
    ("settings", "policy"),
    [
        ({"sequence_len": 9}, "drop"),
        ({"sequence_len": 9, "excess_length_strategy": "truncate"}, "truncate"),
        ({"sequence_len": 9, "excess_length_strategy": "raise"}, "refuse"),
        ({}, None),
    ],
)
def test_longer_rows(settings: dict[str, Any], policy: str | None) -> None:
    assert spec_of(read(settings)).sft.too_long == policy


def test_without_an_adapter_all_weights_are_trained() -> None:
    result = read({"lora_r": 8})
    assert spec_of(result).lora is False
    assert "lora_r" in result.dropped


def test_an_adapter_that_carl_has_not_is_a_problem() -> None:
    result = read({"adapter": "llama-adapter"})
    assert [p.where for p in result.problems] == ["lora"]


def test_qlora_is_lora_on_four_bits() -> None:
    result = read({"adapter": "qlora", "load_in_4bit": True, "load_in_8bit": False})
    assert spec_of(result).lora
    assert spec_of(result).model.quantize == "4bit"
    assert not result.dropped


@pytest.mark.parametrize(
    ("settings", "field", "value"),
    [
        ({"sdp_attention": True}, "attention", "sdpa"),
        ({"eager_attention": True}, "attention", "eager"),
        ({"bfloat16": True}, "dtype", "bfloat16"),
        ({"float32": True}, "dtype", "float32"),
        ({"revision_of_model": "v1"}, "revision", "v1"),
        (
            {"chat_template": "jinja", "chat_template_jinja": "{{ messages }}"},
            "chat_template",
            "{{ messages }}",
        ),
    ],
)
def test_the_model(settings: dict[str, Any], field: str, value: str) -> None:
    assert read(settings).document["model"][field] == value


def test_prompts_count_in_the_loss_if_the_file_says_so() -> None:
    document = read({**rows(type=OWN), "train_on_inputs": True}).document
    assert document["sft"] == {"trainer": {"completion_only_loss": False}}
    silent = read({**rows(type=OWN), "train_on_inputs": False})
    assert "sft" not in silent.document
    assert silent.dropped == {}


def test_conversations_are_read_from_their_column() -> None:
    result = read(rows(type="chat_template", field_messages="talk"))
    assert result.document["data"]["columns"] == {"messages": "talk"}
    assert any("assistant_only_loss" in remark for remark in result.remarks)


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        ("chatml.intel", {"prompt": "question"}),
        ("llama3.icr", {"prompt": "input"}),
        ("llama3.ultra", {"prompt": "prompt"}),
        ({"field_prompt": "q", "field_chosen": "c", "field_rejected": "r"}, None),
    ],
)
def test_preferences_are_read_from_their_columns(kind: Any, columns: Any) -> None:
    result = read({"rl": "dpo", **rows(type=kind)})
    expected = {"prompt": "q", "chosen": "c", "rejected": "r"}
    if columns is not None:
        expected = {"chosen": "chosen", "rejected": "rejected", **columns}
    assert spec_of(result).data.columns == expected


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        (rows(type="alpaca"), "data.columns"),
        (rows(type={**OWN, "field_input": "i"}), "data.columns"),
        (rows(type="completion"), "data.columns"),
        (
            rows(type="chat_template", message_property_mappings={"role": "from"}),
            "data.columns",
        ),
        ({"rl": "dpo", **rows(type="chat_template.default")}, "data.columns"),
        ({"rl": "grpo", **rows(type="rewards.transform")}, "data"),
        ({"datasets": [{"path": "a/b"}, {"path": "c/d"}]}, "datasets"),
        ({"pretraining_dataset": "a/b"}, "pretraining_dataset"),
        ({"datasets": None}, "data.id"),
        (rows("json", data_files=["a.jsonl", "b.jsonl"]), "data.id"),
    ],
)
def test_rows_that_carl_would_read_in_another_way_are_a_problem(
    settings: dict[str, Any], where: str
) -> None:
    result = read(settings)
    assert where in [p.where for p in result.problems]
    assert all(p.remedy for p in result.problems)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("val_set_size", 0.1, "every so many steps"),
        ("lr_scheduler", "rex", "rex"),
        ("optimizer", "muon", "none of TRL's choices"),
        ("gradient_checkpointing", "offload", "expected true or false"),
        ("batch_size", 64, "counts all GPUs"),
        ("wandb_project", "p", "WANDB_PROJECT"),
        ("chat_template", "chatml", "chat template"),
        ("fsdp", {"a": 1}, "expected"),
        ("plugins", ["x"], "no counterpart"),
    ],
)
def test_what_is_left_out_is_listed_with_a_reason(
    key: str, value: Any, reason: str
) -> None:
    result = read({key: value})
    assert reason in result.dropped[key]
    spec_of(result)
