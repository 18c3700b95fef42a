"""Whatever the input is, the answer is a value or one of our errors."""

# ruff: noqa: PT017 (an error is one of the two answers, so it is asserted in place)

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carl_bundle.errors import SpecError, UsageError
from carl_bundle.spec.defaults import resolve
from carl_bundle.spec.legacy import translate
from carl_bundle.spec.model_files import ModelFiles
from carl_bundle.spec.model_spec import ModelSpec
from carl_bundle.spec.thinking import TemplateError, detect_thinking
from carl_bundle.spec.train_spec import TrainSpec
from carl_bundle.spec.yaml import parse

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(
        ["builtin", "org/name", "auto", "a.py:f", "\ud800", "grpo", "sft"]
    )
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


def blocks() -> dict[str, st.SearchStrategy[Any]]:
    """Return for each field of a spec a strategy that often fits its shape."""
    found: dict[str, st.SearchStrategy[Any]] = {}
    for name, field in TrainSpec.model_fields.items():
        default = field.default
        names = list(getattr(type(default), "model_fields", {}))
        nested = st.dictionaries(st.sampled_from(names), VALUES, max_size=4)
        found[name] = (nested | VALUES) if names else VALUES
    reward = st.dictionaries(
        st.sampled_from(["name", "function", "weight", "extract", "pattern", "target"]),
        VALUES,
    )
    found["rewards"] = st.lists(reward | VALUES, max_size=3) | VALUES
    return found


@settings(max_examples=300)
@given(st.fixed_dictionaries({}, optional=blocks()))
def test_any_document_is_a_spec_or_a_list_of_problems(document: dict[str, Any]) -> None:
    try:
        spec = TrainSpec.model_validate(translate(document).document)
    except SpecError as error:
        assert error.problems
        assert all(p.message and p.remedy for p in error.problems)
    else:
        assert resolve(resolve(spec)) == resolve(spec)
        assert TrainSpec.model_validate(spec.document()) == spec


@settings(max_examples=300)
@given(st.text(max_size=60) | st.text(alphabet="{}[]:,-&*!|>'\"# \n\tab1", max_size=40))
def test_any_text_is_yaml_or_one_error(text: str) -> None:
    try:
        parse(text, "carl.yaml")
    except UsageError as error:
        assert "\n" not in str(error)


FIELDS = [
    "model_type",
    "architectures",
    "vocab_size",
    "num_hidden_layers",
    "layer_types",
    "sliding_window",
    "text_config",
    "quantization_config",
    "rope_parameters",
    "dtype",
    "is_encoder_decoder",
    "num_experts",
    "tie_word_embeddings",
]
TYPES = ["llama", "gemma3", "qwen3_5", "deepseek_v3", "mamba2", "gpt2", "jamba", "no"]


@settings(max_examples=300)
@given(
    st.sampled_from(TYPES),
    st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=5),
)
def test_any_config_is_a_model_or_one_error(kind: str, change: dict[str, Any]) -> None:
    config = json.dumps({"model_type": kind, **change})
    files = ModelFiles("a model", {"config.json": config.encode()})
    try:
        model = ModelSpec.from_files(files, trust_remote_code=True)
    except UsageError as error:
        assert "\n" not in str(error)
        assert error.remedy
    else:
        json.dumps(model.as_dict(), allow_nan=False)


@settings(max_examples=200)
@given(st.text(alphabet="{%}# \nif.()['think']|mesg0", max_size=60))
def test_any_template_renders_or_says_why(template: str) -> None:
    try:
        detect_thinking(template, {})
    except TemplateError as error:
        assert str(error)


@pytest.mark.parametrize("value", [{1, 2}, object(), b"bytes", range(3)])
def test_a_value_that_no_file_can_hold_is_refused(value: object) -> None:
    with pytest.raises(SpecError):
        TrainSpec.model_validate({"report_to": value})
    with pytest.raises(SpecError):
        TrainSpec.model_validate({"sft": {"trainer": {"optim_args": value}}})
