"""What the class of a model cannot do is left out with a remark, or refused."""

from __future__ import annotations

from typing import Any

import pytest

from carl_bundle import bundle
from carl_bundle.errors import SpecError
from carl_bundle.recipes import plan
from carl_bundle.spec.class_limits import COEFFICIENT, remarks
from carl_bundle.spec.defaults import resolve
from carl_bundle.spec.freeze import freeze
from carl_bundle.spec.train_spec import TrainSpec
from tests.spec.conftest import QWEN3, MakeModel

IMAGES = {"id": "rows.jsonl", "columns": {"image": "image"}}
PATTERN = [{"name": "pattern", "pattern": "a"}]


def spec(architecture: str | None, method: str = "sft", **more: Any) -> TrainSpec:
    """A spec with a model of a class; `model` and `frozen` add to those blocks."""
    frozen = {"auto_class": "causal-lm", "architecture": architecture}
    frozen |= {"commit": "0123456789" * 4, **more.pop("frozen", {})}
    given = {
        "method": method,
        "model": {"id": "org/model", "frozen": frozen, **more.pop("model", {})},
        "data": "rows.jsonl",
        "rewards": PATTERN if method in ("grpo", "rloo", "pipeline") else [],
    }
    return TrainSpec.model_validate(given | more)


def checkpointing(given: TrainSpec) -> list[bool | None]:
    return [phase.gradient_checkpointing for phase in resolve(given).phases.values()]


def refused(*args: Any, **more: Any) -> Any:
    with pytest.raises(SpecError) as caught:
        spec(*args, **more)
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize("method", ["sft", "grpo", "pipeline", "dpo"])
def test_a_class_without_checkpointing_keeps_its_activations(method: str) -> None:
    given = spec("CTRLLMHeadModel", method)
    assert not any(checkpointing(given))
    said = list(remarks(given))
    assert [text.partition(".")[0] for text in said] == list(given.phases)
    assert all("CTRLLMHeadModel" in text and "more memory" in text for text in said)
    able = spec("Qwen3ForCausalLM", method)
    assert all(checkpointing(able))
    assert not list(remarks(able))


def test_checkpointing_that_is_asked_of_a_class_without_it_is_refused() -> None:
    problem = refused("CTRLLMHeadModel", sft={"gradient_checkpointing": True})
    assert problem.where == "sft.gradient_checkpointing"
    assert "set it to false" in problem.remedy
    off = spec("CTRLLMHeadModel", sft={"gradient_checkpointing": False})
    assert not list(remarks(off))


def test_fsdp_computes_activations_anew_by_itself() -> None:
    given = {"sharding": "fsdp2", "sft": {"gradient_checkpointing": True}}
    assert checkpointing(spec("CTRLLMHeadModel", **given)) == [True]
    assert checkpointing(spec("CTRLLMHeadModel", sharding="zero3")) == [False]


def test_a_class_may_be_able_to_do_it_without_adapters_alone() -> None:
    assert checkpointing(spec("GitForCausalLM")) == [False]
    assert checkpointing(spec("GitForCausalLM", lora=False)) == [True]
    problem = refused("GitForCausalLM", sft={"gradient_checkpointing": True})
    assert "in-place operation" in problem.message


TEXT = ["IdeficsForVisionText2Text", "BlipForConditionalGeneration"]


@pytest.mark.parametrize("architecture", TEXT)
@pytest.mark.parametrize("method", ["sft", "grpo", "kto"])
def test_a_class_that_does_not_learn_from_text_says_why(
    architecture: str, method: str
) -> None:
    problem = refused(architecture, method)
    said = f"{architecture} cannot be trained on text alone: "
    assert problem.message.startswith(said)
    assert "pixel_values" in problem.message
    assert (problem.where, problem.remedy) == ("model.id", "choose another model")


def test_of_rows_with_images_nothing_is_claimed() -> None:
    auto = {"auto_class": "image-text-to-text"}
    assert spec("IdeficsForVisionText2Text", frozen=auto, data=IMAGES)


@pytest.mark.parametrize(
    ("architecture", "more"),
    [
        ("NobodysForCausalLM", {}),
        (None, {}),
        ("BlipForConditionalGeneration", {"frozen": {"auto_class": None}}),
        ("CTRLLMHeadModel", {"model": {"trust_remote_code": True}}),
    ],
)
def test_of_a_class_that_is_not_known_nothing_is_claimed(
    architecture: str | None, more: dict[str, Any]
) -> None:
    given = spec(architecture, sft={"gradient_checkpointing": True}, **more)
    assert not list(remarks(given))
    assert COEFFICIENT not in plan(given).config["sft"]["trainer"]


def test_a_spec_without_a_model_of_its_own_has_no_remarks() -> None:
    assert not list(remarks(TrainSpec()))


UNBALANCED: list[tuple[str, dict[str, Any]]] = [
    ("GraniteMoeForCausalLM", {}),  # TRL knows its experts by another name
    ("DogeForCausalLM", {}),  # it has a number of experts, and none
    ("JambaForCausalLM", {"experts": 0}),
]


@pytest.mark.parametrize(("architecture", "frozen"), UNBALANCED)
def test_the_loss_that_balances_experts_is_left_out_where_trl_cannot_compute_it(
    architecture: str, frozen: dict[str, Any]
) -> None:
    given = spec(architecture, "pipeline", frozen=frozen)
    config = plan(given).config
    assert config["sft"]["trainer"][COEFFICIENT] == 0.0
    assert config["grpo"]["trainer"][COEFFICIENT] == 0.0
    said = list(remarks(given))
    assert len(said) == 2
    assert all("balances experts" in text for text in said)
    asked = {"trainer": {COEFFICIENT: 0.1}}
    problem = refused(architecture, frozen=frozen, sft=asked)
    assert problem.where == f"sft.trainer.{COEFFICIENT}"
    off = spec(architecture, frozen=frozen, sft={"trainer": {COEFFICIENT: 0.0}})
    assert not list(remarks(off))


@pytest.mark.parametrize("experts", [8, None])  # None: frozen before it was recorded
def test_the_loss_that_balances_experts_stays_where_trl_computes_it(
    experts: int | None,
) -> None:
    given = spec("MixtralForCausalLM", frozen={"experts": experts})
    assert COEFFICIENT not in plan(given).config["sft"]["trainer"]
    assert not list(remarks(given))
    asked = spec("MixtralForCausalLM", sft={"trainer": {COEFFICIENT: 0.1}})
    assert plan(asked).config["sft"]["trainer"][COEFFICIENT] == 0.1


def test_orpo_has_no_such_loss() -> None:
    given = spec("GraniteMoeForCausalLM", "orpo")
    assert COEFFICIENT not in plan(given).config["orpo"]["trainer"]
    assert not list(remarks(given))


JAMBA = {**QWEN3, "model_type": "jamba", "architectures": ["JambaForCausalLM"]}


@pytest.mark.parametrize(("count", "recorded"), [(1, 0), (16, 16)])
def test_the_experts_of_a_model_are_recorded(
    make_model: MakeModel, count: int, recorded: int
) -> None:
    directory = make_model({**JAMBA, "num_experts": count})
    given = {"method": "sft", "model": str(directory), "data": "rows.jsonl"}
    frozen = freeze(TrainSpec.model_validate(given)).model.frozen
    assert frozen is not None
    assert frozen.experts == recorded


def test_a_class_of_another_kind_has_no_such_record(make_model: MakeModel) -> None:
    given = {"method": "sft", "model": str(make_model(QWEN3)), "data": "rows.jsonl"}
    frozen = freeze(TrainSpec.model_validate(given)).model.frozen
    assert frozen is not None
    assert frozen.experts is None


STEP: dict[str, Any] = {
    "model_type": "step3p7",
    "architectures": ["Step3p7ForConditionalGeneration"],
}


def test_what_a_class_has_no_default_for_may_stand_in_the_file(
    make_model: MakeModel,
) -> None:
    given = {"method": "sft", "data": "rows.jsonl"}
    text: dict[str, Any] = {"model_type": "step3p7_text"}
    directory = str(make_model({**STEP, "text_config": text}))
    with pytest.raises(SpecError, match="sliding_window") as caught:
        freeze(TrainSpec.model_validate({**given, "model": directory}))
    assert "sliding_window in config.json" in caught.value.problems[0].remedy
    make_model({**STEP, "text_config": {**text, "sliding_window": 512}})
    frozen = freeze(TrainSpec.model_validate({**given, "model": directory}))
    assert freeze(frozen) == frozen


NAMED = 'model.base_model_prefix = CONFIG["model"]["decoder"]'


def test_a_decoder_that_the_class_does_not_name_is_named_before_it_is_adapted() -> None:
    given = spec("Llama4ForCausalLM", "pipeline")
    text = bundle(given)
    assert plan(given).config["model"]["decoder"] == "model"
    loaded = [part.index("_adapter(") for part in text.split(NAMED)[1:]]
    assert len(loaded) == 2
    assert max(loaded) < 100
    assert "base_model_prefix" not in bundle(spec("Qwen3ForCausalLM", "pipeline"))
