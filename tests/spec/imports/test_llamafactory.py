"""Files of LLaMA-Factory, and its description of data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from carl_bundle.errors import UsageError
from carl_bundle.spec.imports import Imported, translate
from carl_bundle.spec.train_spec import TrainSpec

BASE = {
    "model_name_or_path": "org/model",
    "stage": "sft",
    "do_train": True,
    "dataset": "mine",
    "overwrite_cache": True,
    "plot_loss": True,
}
QA = {"columns": {"prompt": "q", "response": "a"}}
TAGS = {"role_tag": "role", "content_tag": "content"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    describe(tmp_path, {"hf_hub_url": "org/rows", **QA})
    return tmp_path


def describe(folder: Path, entry: Any) -> None:
    (folder / "data").mkdir(exist_ok=True)
    text = json.dumps({"mine": entry})
    (folder / "data" / "dataset_info.json").write_text(text, encoding="utf-8")


def read(settings: dict[str, Any], method: str | None = None) -> Imported:
    return translate({**BASE, **settings}, "llamafactory", method)


def spec_of(result: Imported) -> TrainSpec:
    assert result.problems == ()
    return TrainSpec.model_validate(result.document)


def test_a_whole_file_becomes_a_spec(folder: Path) -> None:
    result = read(
        {
            "finetuning_type": "lora",
            "lora_rank": 8,
            "lora_target": "q_proj, v_proj",
            "cutoff_len": 2048,
            "max_samples": 1000,
            "flash_attn": "fa2",
            "packing": True,
            "output_dir": "saves/x",
            "logging_steps": 10,
            "save_steps": 500,
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 8,
            "learning_rate": 1e-4,
            "num_train_epochs": 3.0,
            "lr_scheduler_type": "cosine",
            "warmup_ratio": 0.1,
            "bf16": True,
            "ddp_timeout": 180,
            "report_to": "none",
            "resume_from_checkpoint": None,
        }
    )
    assert result.dropped == {}
    assert spec_of(result) == TrainSpec.model_validate(
        {
            "method": "sft",
            "output_dir": "saves/x",
            "model": {"id": "org/model", "attention": "flash_attention_2"},
            "data": {
                "id": "org/rows",
                "limit": 1000,
                "columns": {"prompt": "q", "completion": "a"},
            },
            "lora": {"r": 8, "alpha": 16.0, "targets": ["q_proj", "v_proj"]},
            "sft": {
                "max_length": 2048,
                "logging_steps": 10,
                "save_steps": 500,
                "per_device_train_batch_size": 1,
                "gradient_accumulation_steps": 8,
                "learning_rate": 1e-4,
                "num_train_epochs": 3.0,
                "lr_scheduler_type": "cosine",
                "warmup_steps": 0.1,
                "bf16": True,
                "trainer": {"packing": True, "ddp_timeout": 180},
            },
        }
    )


@pytest.mark.parametrize(
    ("settings", "method", "phase"),
    [
        ({"stage": "dpo", "pref_beta": 0.2}, "dpo", {"beta": 0.2}),
        ({"stage": "dpo", "pref_loss": "ipo"}, "dpo", {"loss_type": "ipo"}),
        (
            {"stage": "dpo", "pref_loss": "orpo", "pref_beta": 0.2},
            "orpo",
            {"beta": 0.2},
        ),
        (
            {"stage": "kto", "kto_chosen_weight": 0.5},
            "kto",
            {"trainer": {"desirable_weight": 0.5}},
        ),
    ],
)
def test_the_stage_names_the_method(
    folder: Path, settings: dict[str, Any], method: str, phase: dict[str, Any]
) -> None:
    document = read(settings).document
    assert document["method"] == method
    assert document[method] == phase


@pytest.mark.parametrize(
    "settings",
    [
        {"stage": "rm"},
        {"stage": "ppo"},
        {"stage": "pt"},
        {"stage": ["sft"]},
        {"stage": "dpo", "pref_loss": "simpo"},
    ],
)
def test_a_training_that_carl_has_not_needs_a_method(
    folder: Path, settings: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match="no counterpart") as caught:
        read(settings)
    assert "--method" in str(caught.value.remedy)
    assert read(settings, "sft").document["method"] == "sft"


@pytest.mark.parametrize(
    ("settings", "lora"),
    [
        ({}, {}),
        ({"lora_target": "all"}, {"targets": "auto"}),
        ({"lora_rank": 4, "lora_alpha": 4}, {"r": 4, "alpha": 4}),
        ({"finetuning_type": "full"}, False),
    ],
)
def test_adapters(folder: Path, settings: dict[str, Any], lora: Any) -> None:
    assert read(settings).document["lora"] == lora


def test_an_evaluation_every_so_many_steps(folder: Path) -> None:
    result = read({"eval_strategy": "steps", "eval_steps": 50, "val_size": 200})
    spec = spec_of(result).eval
    assert (spec.every, spec.items, spec.best) == (50, 200, False)
    assert result.dropped == {}


@pytest.mark.parametrize(("given", "thinking"), [(True, "on"), (False, "off")])
def test_thinking(folder: Path, given: bool, thinking: str) -> None:
    assert spec_of(read({"enable_thinking": given})).model.thinking == thinking


@pytest.mark.parametrize("kind", ["freeze", "oft"])
def test_a_part_of_the_weights_is_a_problem(folder: Path, kind: str) -> None:
    assert [p.where for p in read({"finetuning_type": kind}).problems] == ["lora"]


@pytest.mark.parametrize(
    ("stage", "entry", "data"),
    [
        ("sft", {"file_name": "m.json", **QA}, {"id": "data/m.json"}),
        (
            "sft",
            {"hf_hub_url": "a/b", "subset": "en", "split": "dev", **QA},
            {"id": "a/b", "config": "en", "split": "dev"},
        ),
        (
            "sft",
            {"hf_hub_url": "a/b", "formatting": "sharegpt", "tags": TAGS}
            | {"columns": {"messages": "talk"}},
            {"id": "a/b", "columns": {"messages": "talk"}},
        ),
        (
            "dpo",
            {"hf_hub_url": "a/b", "ranking": True}
            | {"columns": {"prompt": "q", "chosen": "c", "rejected": "r"}},
            {
                "id": "a/b",
                "columns": {"prompt": "q", "chosen": "c", "rejected": "r"},
            },
        ),
        (
            "kto",
            {"hf_hub_url": "a/b", "formatting": "sharegpt", "tags": TAGS}
            | {"columns": {"messages": "talk", "kto_tag": "good"}},
            {"id": "a/b", "columns": {"completion": "talk", "label": "good"}},
        ),
    ],
)
def test_the_description_tells_rows_and_columns(
    folder: Path, stage: str, entry: dict[str, Any], data: dict[str, Any]
) -> None:
    describe(folder, entry)
    result = read({"stage": stage})
    spec_of(result)
    columns = {"columns": {"prompt": "q", "completion": "a"}}
    assert result.document["data"] == {**columns, **data}


@pytest.mark.parametrize(
    ("stage", "entry"),
    [
        ("sft", {"hf_hub_url": "a/b"}),
        ("sft", {"hf_hub_url": "a/b", "columns": {"prompt": "q", "query": "i"}}),
        ("sft", {"hf_hub_url": "a/b", "formatting": "sharegpt"}),
        (
            "dpo",
            {"hf_hub_url": "a/b", "formatting": "sharegpt", "tags": TAGS}
            | {"columns": {"messages": "m", "chosen": "c", "rejected": "r"}},
        ),
    ],
)
def test_rows_that_carl_would_read_in_another_way_are_a_problem(
    folder: Path, stage: str, entry: dict[str, Any]
) -> None:
    describe(folder, entry)
    assert "data.columns" in [p.where for p in read({"stage": stage}).problems]


@pytest.mark.parametrize(
    ("dataset", "place", "message"),
    [
        ("other", "data", "does not stand there"),
        ("mine", "elsewhere", "which is not there"),
        ("mine,other", "data", "2 data sets"),
    ],
)
def test_data_that_is_not_described_is_a_problem(
    folder: Path, dataset: str, place: str, message: str
) -> None:
    result = read({"dataset": dataset, "dataset_dir": place})
    assert message in str(result.problems[0])


def test_the_description_is_found_beside_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "project").mkdir()
    describe(tmp_path / "project", {"hf_hub_url": "org/rows", **QA})
    result = translate(BASE, "llamafactory", None, Path("project"))
    assert result.document["data"]["id"] == "org/rows"


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "\xff", ""])
def test_a_description_that_is_none_is_an_error_not_a_crash(
    folder: Path, text: str
) -> None:
    (folder / "data" / "dataset_info.json").write_text(text, encoding="latin-1")
    with pytest.raises(UsageError, match=r"dataset_info\.json"):
        read({})


@pytest.mark.parametrize("entry", [None, [], "a", {"columns": [1]}, {"tags": 1}])
def test_a_description_of_another_shape_is_a_problem(folder: Path, entry: Any) -> None:
    describe(folder, entry)
    assert "data.id" in [p.where for p in read({}).problems]


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("template", "llama3", "chat template"),
        ("quantization_bit", 3, "model.quantize"),
        ("val_size", 0.1, "every so many steps"),
        ("trust_remote_code", True, "40-digit"),
        ("use_galore", True, "no counterpart"),
        ("adapter_name_or_path", "x", "new adapters"),
        ("flash_attn", "odd", "none of auto"),
        ("neat_packing", True, "padding_free"),
        ("pref_loss", "sigmoid", "no counterpart"),
    ],
)
def test_what_is_left_out_is_listed_with_a_reason(
    folder: Path, key: str, value: Any, reason: str
) -> None:
    result = read({key: value})
    assert reason in result.dropped[key]
    spec_of(result)
