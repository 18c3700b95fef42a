"""Reading YAML strictly, and merging file, flags and assignments."""

from __future__ import annotations

from pathlib import Path

import pytest

from carl_bundle.errors import CarlError, SpecError, UsageError
from carl_bundle.spec.load import load
from carl_bundle.spec.yaml import MAX_BYTES, parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("-1.5", -1.5),
        (".5", 0.5),
        ("no", "no"),
        ("on", "on"),
        ("012", "012"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("0x10", 16),
        ("true", True),
        ("~", None),
        ("", None),
        ("'3'", "3"),
        ("[1, {a: b}]", [1, {"a": "b"}]),
        ("<<", "<<"),
        ('"\\u2028"', "\u2028"),
    ],
)
def test_scalars_are_read_by_the_rules_of_yaml_1_2(text: str, value: object) -> None:
    found = parse(text, "test")

    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "x.yaml:2:1: the key 'a' stands there twice"),
        ("a: {b: 1, b: 2}", "x.yaml:1:11: the key 'b' stands there twice"),
        ("a: [1, 2", "x.yaml:1:9:"),
        ("a:\n\t- b", "x.yaml:2:1:"),
        ("a: &x 1\nb: *x", "x.yaml:2:4: aliases"),
        ("a: &x [*x]", "aliases"),
        ("1: a", "the key 1 is not a string"),
        ("a: !!python/object/apply:os.system [ls]", "x.yaml:1:4:"),
        ("a: !mine 3", "x.yaml:1:4:"),
        ("--- 1\n--- 2", "expected a single document"),
        ("a: " + "[" * 3000, "x.yaml"),
        ("a: \x00", "x.yaml is no YAML"),
        ("a: " + "9" * 5000, "x.yaml"),
        ("a" * (MAX_BYTES + 1), "larger than"),
    ],
    ids=range(14),
)
def test_bad_yaml_is_one_error_with_its_place(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text, "x.yaml")

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy


def test_later_sources_win(tmp_path: Path) -> None:
    path = tmp_path / "carl.yaml"
    path.write_text("seed: 1\nname: from-file\nmodel: a/b\nmethod: sft\ndata: c/d\n")

    spec = load(
        path,
        flags={"seed": 2, "name": None, "model.id": "x/y"},
        assignments=["seed=3", "model.revision=main", "sft.learning_rate=1e-5"],
    ).spec

    assert spec.seed == 3
    assert spec.name == "from-file"
    assert (spec.model.id, spec.model.revision) == ("x/y", "main")
    assert spec.sft.learning_rate == 1e-5


def test_an_assignment_reaches_into_lists_and_takes_flow_values(tmp_path: Path) -> None:
    path = tmp_path / "carl.yaml"
    path.write_text("rewards: [{name: exact_answer}]")

    spec = load(
        path,
        assignments=[
            "rewards.0.weight=2",
            "carl.weights=[1, 0, 0]",
            "lora={r: 4}",
            "grpo.trainer.epsilon=0.3",
            "data.system_prompt=a=b",
        ],
    ).spec

    assert spec.rewards[0].weight == 2
    assert spec.carl.weights == (1, 0, 0)
    assert spec.lora
    assert spec.lora.r == 4
    assert spec.grpo.trainer == {"epsilon": 0.3}
    assert spec.data.system_prompt == "a=b"


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("seed", "assigns nothing"),
        ("=3", "assigns nothing"),
        ("seed.x=3", "seed"),
        ("rewards.5.weight=3", "rewards"),
        ("a..b=3", "empty part"),
        ("seed=[", "--set seed"),
        ("sed=3", "sed: unknown key"),
    ],
)
def test_a_bad_assignment_is_explained(assignment: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("[", r"\[")):
        load(assignments=[assignment])


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"\xff\xfea", "is not UTF-8 text"),
        (b"- 1", "holds list, not a mapping"),
        (b"just text", "holds str, not a mapping"),
    ],
)
def test_a_file_that_is_no_spec_is_refused(
    tmp_path: Path, raw: bytes, message: str
) -> None:
    path = tmp_path / "carl.yaml"
    path.write_bytes(raw)

    with pytest.raises(UsageError, match=message):
        load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file") as caught:
        load(tmp_path / "nothing.yaml")

    assert "carl init" in caught.value.remedy


def test_an_empty_file_is_the_embedded_default(tmp_path: Path) -> None:
    path = tmp_path / "carl.yaml"
    path.write_text("\ufeff# nothing\n", encoding="utf-8")

    assert load(path).spec == load().spec


def test_problems_of_the_document_and_of_fields_come_together(tmp_path: Path) -> None:
    path = tmp_path / "carl.yaml"
    path.write_text("vlm_mode: true\nsed: 1\n")

    with pytest.raises(SpecError) as caught:
        load(path, assignments=["seed=x"])

    assert [p.where for p in caught.value.problems] == ["vlm_mode", "seed", "sed"]
    assert isinstance(caught.value, CarlError)
    assert caught.value.exit_code == 2
