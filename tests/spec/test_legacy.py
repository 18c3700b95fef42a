"""The field names of CARL Studio's carl.yaml keep working."""

from __future__ import annotations

from typing import Any

import pytest

from carl_bundle.errors import SpecError
from carl_bundle.spec.legacy import translate
from carl_bundle.spec.train_spec import TrainSpec

STUDIO: dict[str, Any] = {
    "run_name": "my-first-carl",
    "base_model": "org/model",
    "output_repo": "me/my-model",
    "method": "grpo",
    "dataset_repo": "org/rows",
    "dataset_split": "train[:10%]",
    "compute_target": "l4x1",
    "num_train_epochs": 2,
    "max_steps": -1,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 2,
    "learning_rate": 2e-5,
    "warmup_ratio": 0.1,
    "num_generations": 8,
    "max_completion_length": 128,
    "beta": 0.0,
    "grpo_temperature": 0.9,
    "grpo_top_k": 50,
    "tokenizer_source": "org/tokenizer",
    "push_to_hub": True,
    "hub_private": True,
    "timeout": "3h",
    "observation": {"enabled": True},
    "vlm_mode": False,
    "quantization": {"load_in_8bit": False, "load_in_4bit": False},
    "lora": {"r": 8, "alpha": 16, "lora_dropout": 0.0, "target_modules": ["q_proj"]},
    "cascade_stages": [{"steps": 30}, {"steps": 70}],
    "extra_args": {"epsilon": 0.3},
}


def test_a_studio_file_means_the_same_here() -> None:
    result = translate(STUDIO)
    spec = TrainSpec.model_validate(
        {**result.document, "rewards": [{"name": "exact_answer"}]}
    )

    assert result.problems == []
    assert spec.name == "my-first-carl"
    assert (spec.model.id, spec.model.tokenizer) == ("org/model", "org/tokenizer")
    assert (spec.data.id, spec.data.split) == ("org/rows", "train[:10%]")
    assert (spec.push.repo, spec.push.enabled) == ("me/my-model", True)
    assert (spec.grpo.max_steps, spec.grpo.num_train_epochs) == (None, 2)
    assert (spec.grpo.warmup_steps, spec.grpo.temperature) == (0.1, 0.9)
    assert spec.sft.learning_rate is None
    assert spec.grpo.trainer == {"epsilon": 0.3}
    assert spec.lora
    assert (spec.lora.alpha, spec.lora.targets) == (16, ("q_proj",))
    assert (spec.carl.cascade, spec.carl.carl_start) == ("fixed", 30)


def test_what_says_where_to_run_is_reported_as_ignored() -> None:
    notes = translate(STUDIO).notes

    assert any(note.startswith("compute_target is ignored") for note in notes)
    assert any(note.startswith("observation is ignored") for note in notes)
    assert "run_name is now name" in notes


def test_no_push_unless_the_file_asks_for_it() -> None:
    document = translate({"output_repo": "me/it"}).document

    assert TrainSpec.model_validate(document).push.enabled is False


def test_in_a_pipeline_a_flat_name_goes_to_both_phases() -> None:
    document = translate({"learning_rate": 1e-5, "max_length": 64}).document

    assert document["sft"] == document["grpo"]
    assert document["sft"] == {"learning_rate": 1e-5, "max_length": 64}


def test_steps_win_over_epochs_as_they_did() -> None:
    result = translate({"method": "sft", "max_steps": 5, "num_train_epochs": 3})

    assert result.document["sft"] == {"max_steps": 5}
    assert "num_train_epochs is ignored: max_steps is given" in result.notes


@pytest.mark.parametrize(
    ("document", "where"),
    [
        ({"vlm_mode": True}, "vlm_mode"),
        ({"quantization": {"load_in_8bit": True}}, "quantization"),
        ({"quantization": "4bit"}, "quantization"),
        ({"base_model": "a/b", "model": "c/d"}, "base_model"),
        ({"base_model": "a/b", "model": 3}, "base_model"),
        ({"lora": {"alpha": 1, "lora_alpha": 2}}, "lora.lora_alpha"),
        ({"cascade_stages": 3}, "cascade_stages"),
        ({"cascade_stages": [{"steps": 5}]}, "cascade_stages"),
        ({"cascade_stages": [{"steps": "5"}, {}]}, "cascade_stages"),
    ],
)
def test_what_would_change_the_training_is_refused(
    document: dict[str, Any], where: str
) -> None:
    (problem,) = translate(document).problems

    assert problem.where == where
    assert problem.remedy


def test_a_document_in_new_names_is_left_alone() -> None:
    document = TrainSpec(model="a/b", method="sft", data="c/d").document()
    result = translate(document)

    assert result.document == document
    assert not result.notes


def test_a_studio_file_without_a_reward_is_shown_how_to_go_on() -> None:
    with pytest.raises(SpecError, match="task reward"):
        TrainSpec.model_validate(translate(STUDIO).document)
