"""What a model's class cannot do is left out with a note, or refused with a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from carl_runtime_min.errors import UsageError
from carl_runtime_min.limits import check_ranks, spared
from carl_runtime_min.run import Run
from tests import tiny
from tools.matrix.instance import build, cases

SFT: dict[str, Any] = {"gradient_checkpointing": True, "learning_rate": 0.1}
GRPO = {**SFT, "num_generations": 4}
COEFFICIENT = "router_aux_loss_coef"


def small(model_type: str) -> Any:
    """A random model of a type, as `make matrix` builds it."""
    return build(next(case for case in cases() if case.model_type == model_type))


def adapted(model: Any, kind: dict[str, Any], path: Path, phase: str = "sft") -> Any:
    return spared(model, Run(path, phase, "auto"), kind)


def test_a_model_that_can_do_all_keeps_its_arguments_and_its_state(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny.model().eval()
    before = torch.get_rng_state()
    for given in (SFT, GRPO):
        assert adapted(model, given, tmp_path) == given
    assert torch.equal(torch.get_rng_state(), before)
    assert not model.training
    assert all(p.grad is None for p in model.parameters())
    assert not model.get_input_embeddings()._forward_hooks
    assert capsys.readouterr().out == ""


def test_activations_are_kept_where_a_class_cannot_do_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = small("gpt_neox_japanese")
    found = adapted(model, SFT, tmp_path)
    assert found == {**SFT, "gradient_checkpointing": False}
    said = "GPTNeoXJapaneseForCausalLM has no activation checkpointing"
    assert capsys.readouterr().out.startswith(said)


@pytest.mark.parametrize("model_type", ["granitemoe", "doge"])
def test_the_loss_that_balances_experts_is_left_out_where_trl_has_no_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], model_type: str
) -> None:
    """One names its experts otherwise, the other has a number and no experts."""
    model = small(model_type)
    model.config.router_aux_loss_coef = 0.1
    assert adapted(model, SFT, tmp_path)[COEFFICIENT] == 0.0
    assert "balances experts" in capsys.readouterr().out
    assert COEFFICIENT not in adapted(model, SFT, tmp_path, "orpo")
    model.config.router_aux_loss_coef = 0.0
    assert COEFFICIENT not in adapted(model, SFT, tmp_path)


def test_the_loss_that_balances_experts_stays_where_trl_computes_it(
    tmp_path: Path,
) -> None:
    model = small("mixtral")
    assert model.config.router_aux_loss_coef
    assert adapted(model, SFT, tmp_path) == SFT


def test_trl_finds_a_decoder_under_another_name(tmp_path: Path) -> None:
    model = next(
        build(case)
        for case in cases()
        if (case.model_type, case.auto_class) == ("mllama", "causal-lm")
    )
    names = set(model.state_dict())
    assert model.base_model is model
    adapted(model, SFT, tmp_path)
    assert model.base_model is model.model
    assert set(model.state_dict()) == names


REFUSED = [
    ("idefics", SFT, "pixel_values", "another model"),
    ("xmod", SFT, "Input language unknown", "another model"),
    ("xlstm", GRPO, "wrong shape", "another model"),
]


@pytest.mark.parametrize(("model_type", "given", "reason", "remedy"), REFUSED)
def test_a_class_that_does_not_learn_from_text_says_why(
    tmp_path: Path, model_type: str, given: dict[str, Any], reason: str, remedy: str
) -> None:
    with pytest.raises(UsageError, match=reason) as refused:
        adapted(small(model_type), given, tmp_path)
    assert "cannot be trained on text alone" in str(refused.value)
    assert remedy in refused.value.remedy


def test_what_cannot_sample_may_still_learn_from_examples(tmp_path: Path) -> None:
    assert adapted(small("xlstm"), SFT, tmp_path) == SFT


def test_where_checkpointing_is_the_fault_the_remedy_is_to_switch_it_off(
    tmp_path: Path,
) -> None:
    from carl_runtime_min.lora import lora_targets
    from carl_runtime_min.models import add_adapter

    settings = {"r": 2, "lora_alpha": 4, "lora_dropout": 0.0, "bias": "none"}
    model = small("git")
    model = add_adapter(model, lora_targets(model), settings)
    with pytest.raises(UsageError, match="in-place") as refused:
        adapted(model, SFT, tmp_path)
    assert refused.value.remedy == "set gradient_checkpointing: false"
    off = {**SFT, "gradient_checkpointing": False}
    assert adapted(small("git"), off, tmp_path) == off


def test_a_model_is_not_tried_if_its_rows_hold_more_than_text(tmp_path: Path) -> None:
    run = Run(tmp_path, "sft", "auto")
    assert spared(small("idefics"), run, SFT, False) == SFT


def test_sharding_needs_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(UsageError, match="two GPUs") as refused:
        check_ranks()
    assert "sharding: none" in refused.value.remedy
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_ranks()
