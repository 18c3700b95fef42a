"""TrainSpec: what it accepts, and how it reports what it does not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carl_bundle.errors import Problem, SpecError
from carl_bundle.spec.defaults import resolve
from carl_bundle.spec.text import MAX_TEXT
from carl_bundle.spec.train_spec import TrainSpec


def problems_of(**fields: object) -> dict[str, Problem]:
    """Return the problems of a spec by where they are."""
    with pytest.raises(SpecError) as caught:
        TrainSpec.model_validate(fields)
    return {problem.where: problem for problem in caught.value.problems}


def test_nothing_given_is_the_embedded_default() -> None:
    spec = TrainSpec()

    assert spec.method == "pipeline"
    assert spec.model.is_builtin
    assert spec.data.is_builtin
    assert spec.carl.weights == (0.5, 0.3, 0.2)
    assert spec.document() == {}


def test_a_bare_string_names_a_model_or_data() -> None:
    spec = TrainSpec(model="org/name", data="rows.jsonl", method="sft")

    assert spec.model.id == "org/name"
    assert spec.data.id == "rows.jsonl"
    assert spec.data.is_file


def test_the_document_of_a_spec_is_the_spec() -> None:
    spec = TrainSpec.model_validate(
        {
            "model": {"id": "org/name", "revision": "main"},
            "data": {"id": "rows.jsonl", "columns": {"prompt": "question"}},
            "lora": {"targets": ["q_proj", "v_proj"]},
            "rewards": [{"name": "exact_answer"}, {"function": "a.py:score"}],
            "report_to": ["trackio", "tensorboard"],
            "grpo": {"trainer": {"epsilon": 0.3}},
        }
    )

    assert TrainSpec.model_validate(spec.document()) == spec


def test_a_spec_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        TrainSpec().seed = 3


@pytest.mark.parametrize(
    ("fields", "where", "message"),
    [
        ({"seed": "3"}, "seed", "expected an integer, got '3' (a string)"),
        ({"seed": True}, "seed", "expected an integer, got True (true/false)"),
        ({"seed": 1.5}, "seed", "expected an integer, got 1.5 (a number)"),
        ({"seed": -1}, "seed", "must be greater than or equal to 0, got -1"),
        ({"grpo": 3}, "grpo", "expected a mapping, got 3 (an integer)"),
        ({"sft": {"bf16": "yes"}}, "sft.bf16", "expected true or false, got 'yes'"),
        ({"rewards": {"name": "length"}}, "rewards", "expected a list"),
        ({"rewards": [3]}, "rewards.0", "expected a mapping, got 3"),
        ({"carl": {"weights": [1, 0]}}, "carl.weights", "has 2 items; 3 are needed"),
        ({"sft": {"learning_rate": float("nan")}}, "sft.learning_rate", "finite"),
        ({"sft": {"learning_rate": float("inf")}}, "sft.learning_rate", "finite"),
        ({"sft": {"max_steps": 2**70}}, "sft.max_steps", "must be less than"),
        (
            {"method": "grop"},
            "method",
            "'grop' is not 'sft', 'grpo', 'rloo', 'dpo', 'kto', 'orpo' or 'pipeline'",
        ),
        ({"version": 2}, "version", "expected 1, got 2"),
        ({"lora": True}, "lora", "expected a mapping, got True"),
        ({"name": "a b"}, "name", "does not have the form"),
        ({"name": ".hidden"}, "name", "does not have the form"),
        ({"data": {"columns": {"gold": "a"}}}, "data.columns.gold", "is not 'prompt'"),
        ({"report_to": []}, "report_to", "has 0 items"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(
    fields: dict[str, object], where: str, message: str
) -> None:
    assert message in problems_of(**fields)[where].message


@pytest.mark.parametrize(
    ("fields", "where", "suggestion"),
    [
        ({"sed": 3}, "sed", "did you mean 'seed'?"),
        ({"grpo": {"temprature": 1}}, "grpo.temprature", "'temperature'"),
        ({"data": {"split_": "x"}}, "data.split_", "did you mean 'split'?"),
        ({"sft": {"data": {"ids": "x"}}}, "sft.data.ids", "did you mean 'id'?"),
        ({"method": "grop"}, "method", "did you mean 'grpo'?"),
        ({"carl": {"zzz": 1}}, "carl.zzz", "known names: carl_start, cascade"),
        ({"seed": "3"}, "seed", "remove the quotes"),
    ],
)
def test_the_remedy_names_what_was_probably_meant(
    fields: dict[str, object], where: str, suggestion: str
) -> None:
    assert suggestion in problems_of(**fields)[where].remedy


def test_all_problems_are_reported_at_once() -> None:
    found = problems_of(
        sed=3,
        seed="x",
        gate={"min_above": 9},
        push={"enabled": True},
        grpo={"num_generations": 7, "per_device_train_batch_size": 8},
    )

    assert set(found) == {
        "sed",
        "seed",
        "gate.min_above, gate.window",
        "push.repo",
        "grpo.per_device_train_batch_size, grpo.num_generations",
    }
    assert all(problem.remedy for problem in found.values())


def test_a_rule_is_silent_about_a_field_that_is_invalid_already() -> None:
    found = problems_of(gate={"window": "five", "min_above": 9})

    assert set(found) == {"gate.window"}


HOSTILE = {
    "NUL": "a\x00b",
    "line feed": "a\nb",
    "carriage return": "a\rb",
    "form feed": "a\x0cb",
    "next line": "a\x85b",
    "line separator": "a\u2028b",
    "right-to-left override": "a\u202eb",
    "lone surrogate": "a\ud800b",
    "empty": "",
    "a megabyte": "a" * 1_000_000,
    "padded": " a",
}
IDENTIFIERS = {
    "model.id": lambda text: {"model": text},
    "model.attention": lambda text: {"model": {"id": "a/b", "attention": text}},
    "model.revision": lambda text: {"model": {"id": "a/b", "revision": text}},
    "model.tokenizer": lambda text: {"model": {"id": "a/b", "tokenizer": text}},
    "data.id": lambda text: {"data": text},
    "data.split": lambda text: {"data": {"split": text}},
    "data.columns.prompt": lambda text: {"data": {"columns": {"prompt": text}}},
    "lora.targets.0": lambda text: {"lora": {"targets": [text]}},
    "rewards.0.function": lambda text: {"rewards": [{"function": text}]},
    "gate.metric": lambda text: {"gate": {"metric": text}},
    "push.repo": lambda text: {"push": {"repo": text}},
    "output_dir": lambda text: {"output_dir": text},
    "dependencies.0": lambda text: {"dependencies": [text]},
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("field", IDENTIFIERS)
def test_an_identifier_with_hidden_characters_is_refused_by_name(
    field: str, text: str
) -> None:
    found = problems_of(**IDENTIFIERS[field](text))

    (problem,) = found.values()
    assert problem.where == field.removesuffix(".id")
    assert problem.message.isprintable()
    assert len(problem.message) < 200


@given(st.text(max_size=200))
def test_free_text_holds_any_unicode(text: str) -> None:
    spec = TrainSpec.model_validate({"data": {"system_prompt": text}})

    assert spec.data.system_prompt == text


@pytest.mark.parametrize("text", ["a\ud800b", "a" * (MAX_TEXT + 1)])
def test_free_text_has_a_limit_and_is_unicode(text: str) -> None:
    assert "data.system_prompt" in problems_of(data={"system_prompt": text})


def test_resolve_fills_the_phases_of_the_built_in_model() -> None:
    run = resolve(TrainSpec())

    assert run.lora is False
    assert run.gate.stop is True
    assert [reward.name for reward in run.rewards] == ["exact_answer"]
    assert run.eval.data is not None
    assert run.eval.data.is_builtin
    assert run.output_dir == "runs/carl"
    assert run.sft.max_steps is not None
    assert run.grpo.steps_per_generation == run.grpo.gradient_accumulation_steps
    unset = {"num_train_epochs", "vllm"}
    assert {k for k, v in run.grpo.model_dump().items() if v is None} == unset


def test_resolve_keeps_what_was_chosen_and_fits_the_rest_to_it() -> None:
    spec = TrainSpec(
        model="org/name",
        method="grpo",
        data="org/rows",
        rewards=[{"name": "exact_answer"}],
        grpo={
            "num_generations": 6,
            "max_steps": 10,
            "num_iterations": 3,
            "max_completion_length": 3000,
        },
    )
    run = resolve(spec)

    assert run.grpo.num_generations == 6
    assert run.grpo.max_steps == 10
    assert run.grpo.num_train_epochs is None
    assert run.grpo.per_device_train_batch_size == 6
    assert run.grpo.max_length == 6000
    assert run.lora
    assert resolve(run) == run


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"model": "a/b", "data": "c/d", "rewards": [{"name": "exact_answer"}]},
        {"lora": {"r": 4}, "sft": {"num_train_epochs": 2}},
    ],
)
def test_defaults_have_the_types_of_their_fields(fields: dict[str, object]) -> None:
    """1 and 1.0 are equal, but would be two texts in a script."""
    run = resolve(TrainSpec.model_validate(fields))
    again = TrainSpec.model_validate(run.model_dump())

    assert json.dumps(again.model_dump(mode="json")) == json.dumps(
        run.model_dump(mode="json")
    )
