"""`carl inspect` shows what a model is and what a spec takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Carl

CONFIG = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "dtype": "bfloat16",
    "pad_token_id": 0,
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CONFIG))
    return directory


def test_a_model_is_shown_with_plan_memory_and_cost(carl: Carl, model: Path) -> None:
    result = carl("inspect", model)

    assert result.code == 0
    assert result.err == ""
    for word in ("MODEL", "PLAN  pipeline", "MEMORY of sft", "MEMORY of grpo", "COST"):
        assert word in result.out
    assert "uncalibrated" in result.out
    assert "not measured" in result.out
    assert "max_length 512" in result.out


def test_json_is_one_object_with_a_schema(carl: Carl, model: Path) -> None:
    result = carl("inspect", model, "--json")
    report = json.loads(result.out)

    assert report["schema"] == "carl.inspect/1"
    assert report["model"]["vocab_size"] == 320
    assert report["model"]["kv_bytes_per_token"] == 4 * 2 * 2 * 16 * 2
    assert report["model"]["weight_bytes"]["remedy"]
    assert [budget["phase"] for budget in report["budgets"]] == ["sft", "grpo"]
    assert report["plan"]["sft"]["learning_rate"] > 0


def test_a_spec_is_shown_with_its_own_numbers(
    carl: Carl, model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "carl.yaml"
    path.write_text("model: model\nmethod: sft\nsft: {max_steps: 100}\n")
    result = carl("inspect", path, "--json", "--price", "2", "--step-seconds", "36")
    cost = json.loads(result.out)["cost"]

    assert cost["hours"] == 1.0
    assert cost["dollars"] == 2.0
    assert cost["phases"][0]["steps"] == 100


def test_old_names_are_noted_beside_the_data(
    carl: Carl, model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "carl.yaml"
    path.write_text("base_model: model\nmethod: sft\ncompute_target: l4x1\n")
    result = carl("inspect", path, "--json")

    assert json.loads(result.out)["plan"]["model"]["id"] == "model"
    assert "base_model is now model.id" in result.err
    assert "compute_target is ignored" in result.err


def test_the_built_in_model_needs_no_files(carl: Carl) -> None:
    result = carl("inspect", "builtin")

    assert result.code == 0
    assert "about a million parameters" in result.out


def test_measuring_counts_exactly(carl: Carl, model: Path) -> None:
    pytest.importorskip("torch")
    result = carl("inspect", model, "--measure", "--json")
    report = json.loads(result.out)

    attention, norms = 64 * (64 + 32 + 32 + 64) + 2 * 16, 2 * 64
    layer = attention + norms + 3 * 64 * 96
    embeddings = 2 * 320 * 64
    assert report["measurement"]["parameters"] == 4 * layer + embeddings + 64
    assert len(report["measurement"]["lora_modules"]) == 28
    assert report["budgets"][0]["total"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing/at/all"], "there is no directory"),
        (["gone.yaml"], "cannot read gone.yaml"),
        (["builtin", "--measure"], "nothing to measure"),
        (["builtin", "--price", "inf"], "--price is inf"),
        (["builtin", "--price", "-1"], "price"),
        ([], "target"),
    ],
)
def test_what_cannot_be_shown_is_explained(
    carl: Carl, arguments: list[str], message: str
) -> None:
    result = carl("inspect", *arguments)

    assert result.code == 2
    assert result.out == ""
    assert message in result.err
    assert "  fix: " in result.err


def test_a_config_that_lies_is_one_error(carl: Carl, model: Path) -> None:
    (model / "config.json").write_text('{"model_type": "qwen3", "hidden_size": "big"}')
    result = carl("inspect", model)

    assert result.code == 2
    assert "config.json: hidden_size is 'big'" in result.err
    assert "Traceback" not in result.err
