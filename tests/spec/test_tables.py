"""The generated tables are what the pinned transformers and TRL say."""

from __future__ import annotations

import pytest

pytest.importorskip("trl")

from carl_bundle.spec.quantization import ADAPTERS, DEQUANTIZE, UNTRAINABLE
from carl_bundle.spec.tables import table
from tools.make_tables import GENERATED
from tools.matrix.instance import build, cases
from tools.tables.class_limits import claim, entry

SLOW = {"class_limits.json": pytest.mark.matrix}  # it builds a model of each class
PATHS = [
    pytest.param(path, id=path.name, marks=SLOW.get(path.name, ()))
    for path in GENERATED
]


@pytest.mark.parametrize("path", PATHS)
def test_a_generated_file_is_current(path) -> None:
    expected = GENERATED[path]()

    assert (
        path.read_text(encoding="utf-8") == expected
    ), f"{path.name} is out of date: run `make tables`"


def test_the_tables_name_the_versions_they_were_made_from() -> None:
    import transformers
    import trl

    assert table("trl_fields.json")["versions"] == {
        "transformers": transformers.__version__,
        "trl": trl.__version__,
    }


def test_every_quantisation_that_is_judged_exists_in_transformers() -> None:
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    judged = ADAPTERS | DEQUANTIZE | UNTRAINABLE
    # The general name stands for both widths.
    known = AUTO_QUANTIZATION_CONFIG_MAPPING.keys() | {"bitsandbytes"}
    assert judged <= known


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("llama.causal-lm", set()),
        ("gpt_neox_japanese.causal-lm", {"checkpointing"}),
        ("granitemoe.causal-lm", {"balance"}),
        ("idefics.image-text-to-text", {"text"}),
        ("git.image-text-to-text", {"adapters"}),
        ("mllama.causal-lm", {"decoder"}),
        ("xmod.causal-lm", {"text", "lacks"}),
    ],
)
def test_the_limits_of_a_class_are_found_on_a_small_model(
    name: str, limits: set[str]
) -> None:
    case = next(case for case in cases() if case.name == name)
    found = entry(build(case))
    assert found.keys() == limits
    assert found == table("class_limits.json")["classes"].get(case.architecture, {})


def test_trl_finds_a_decoder_under_the_name_that_a_script_gives() -> None:
    case = next(case for case in cases() if case.name == "mllama.causal-lm")
    model = build(case)
    names = set(model.state_dict())
    assert model.base_model is model
    model.base_model_prefix = entry(build(case))["decoder"]
    assert model.base_model is model.model
    assert set(model.state_dict()) == names


@pytest.mark.parametrize(
    "said", ["matC_old has wrong shape", "the expanded size of the tensor (8) must"]
)
def test_of_sizes_that_do_not_fit_nothing_is_claimed(said: str) -> None:
    """They are those of the small model."""
    assert claim("text", said) == {}


def test_a_field_that_a_file_may_give_goes_with_the_claim() -> None:
    said = "'XConfig' object has no attribute 'start_id'"
    assert claim("text", said) == {"text": said, "lacks": "start_id"}
