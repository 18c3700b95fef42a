"""Hostile text in a spec stays in CONFIG, or is refused by the name of its field."""

from __future__ import annotations

import ast
import copy
from functools import cache
from typing import Any, get_args

import black
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from carl_bundle import TrainSpec
from carl_bundle.bundler.checks import config_of
from carl_bundle.bundler.metadata import BLOCK
from carl_bundle.bundler.render import Bundler
from carl_bundle.bundler.ruler import sections_of
from carl_bundle.errors import CarlError, SpecError
from carl_bundle.recipes import plan, structure
from carl_bundle.spec.defaults import resolve
from carl_bundle.spec.phases import KINDS

SHA, DIGEST = "0123456789" * 4, "0123456789abcdef" * 4

# A frozen spec in which every field that takes free text has one.
BASE: dict[str, Any] = {
    "name": "run",
    "model": {
        "id": "owner/model",
        "revision": SHA,
        "attention": "sdpa",
        "tokenizer": "owner/tokenizer",
        "chat_template": "{{ messages }}",
        "frozen": {
            "commit": SHA,
            "tokenizer_commit": SHA,
            "config_sha256": DIGEST,
            "chat_template_sha256": DIGEST,
            "thinking_switch": "thinking",
            "model_type": "llama",
            "architecture": "LlamaForCausalLM",
            "auto_class": "causal-lm",
            "quantization": "none",
        },
    },
    "data": {
        "id": "owner/data",
        "revision": SHA,
        "config": "main",
        "split": "train",
        "columns": {"prompt": "q", "answer": "a", "completion": "c"},
        "system_prompt": "be kind",
    },
    "lora": {"targets": ["q_proj"]},
    "sft": {"trainer": {"optim_args": "x", "lr_scheduler_kwargs": {"key": "value"}}},
    **{
        name: {"trainer": {"optim_args": "x"}}
        for name in ("grpo", "rloo", "dpo", "kto", "orpo")
    },
    "eval": {
        "data": {
            "id": "rows.jsonl",
            "split": "test",
            "system_prompt": "",
            "sha256": DIGEST,
        }
    },
    "rewards": [
        {"name": "exact_answer", "extract": "a(b)"},
        {"name": "pattern", "pattern": "x"},
        {"name": "tool_selection", "tools": [{"name": "x", "description": "y"}]},
    ],
    "gate": {"metric": "mean_token_accuracy"},
    "push": {"repo": "owner/result", "enabled": True},
    "output_dir": "out",
    "dependencies": ["scipy==1.17.0"],
}

HOSTILE = {
    "double quotes": '""" " \\"',
    "single quotes": "''' ' \\'",
    "trailing backslash": "a\\",
    "carriage return": "a\rimport os\r\nb",
    "line feed": "a\n# /// script\n# dependencies = ['evil']\n# ///\n",
    "nul": "a\x00b",
    "form feed": "a\x0cimport os",
    "next line": "a\x85b\x0b\x1c",
    "line separator": "a\u2028import os\u2029",
    "bidi": "a\u202e\u2066b",
    "lone surrogate": "a\ud800b",
    "template": "{{ 7 * 7 }}{% raw %}{% endraw %}{x}",
    "ruler": "\n# ---- wiring sha256:0123456789ab ----\n# fmt: off",
    "shell": "; $(touch x) `id` ../../etc/passwd",
    "coding": "# -*- coding: utf-7 -*-",
    "long": "x" * 1_000_000,
}


@cache
def bundler() -> Bundler:
    return Bundler()


def rendered(document: dict[str, Any]) -> str:
    return bundler().render(plan(TrainSpec.model_validate(document)))


def strings(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all strings in a document."""
    if isinstance(value, str):
        return [path]
    items: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    return [found for key, item in items for found in strings(item, (*path, key))]


def put(path: tuple[Any, ...], text: str) -> dict[str, Any]:
    document = copy.deepcopy(BASE)
    block: Any = document
    for part in path[:-1]:
        block = block[part]
    block[path[-1]] = text
    return document


def at(document: Any, path: tuple[Any, ...]) -> Any:
    for part in path:
        document = document[part]
    return document


def outside_configuration(script: str) -> list[tuple[str, str]]:
    """All that may not depend on the text in a spec: every section but two lines."""
    sections = [(s.name, s.text) for s in sections_of(script)]
    header = [
        line for line in sections[0][1].split("\n") if "spec-sha256 = " not in line
    ]
    rest = [section for section in sections[1:] if section[0] != "configuration"]
    return [("header", "\n".join(header)), *rest]


@cache
def plain() -> str:
    return rendered(BASE)


FIELDS = {".".join(map(str, path)): path for path in strings(BASE)}


def text_fields(block: type[BaseModel], prefix: str = "") -> set[str]:
    """The dotted names of the fields of a block that take free text."""
    found = set()
    for name, field in block.model_fields.items():
        for part in _parts(field.annotation):
            if part is str:
                found.add(f"{prefix}{name}")
            elif isinstance(part, type) and issubclass(part, BaseModel):
                found |= text_fields(part, f"{prefix}{name}.")
    return found


def _parts(annotation: Any) -> list[Any]:
    inner = [found for part in get_args(annotation) for found in _parts(part)]
    return [annotation, *inner]


def test_every_text_field_of_a_spec_is_attacked() -> None:
    attacked = {
        ".".join(part for part in path if isinstance(part, str))
        for path in FIELDS.values()
    }
    # Other data is made of the same fields as `data`, and code has its own tests.
    missing = {
        name
        for name in text_fields(TrainSpec)
        if not any(one == name or one.startswith(f"{name}.") for one in attacked)
        and not name.startswith(tuple(f"{phase}.data." for phase in (*KINDS, "eval")))
        and not name.startswith("data.mix.")
    }
    # A pipeline, which this is, has no metric that chooses a checkpoint.
    code = {"rewards.function", "tools", "environments.factory"}  # attacked below
    assert missing <= code | {"data.sha256", "eval.metric"}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize(
    "field",
    [
        lambda text: {"rewards": [{"function": text}]},
        lambda text: {"tools": [text]},
        lambda text: {"environments": [{"factory": text}]},
    ],
)
@pytest.mark.parametrize("shape", ["{}", "{}.py:f", "a.py:{}"])
def test_what_names_code_of_the_user_is_a_path_and_a_name(
    kind: str, field: Any, shape: str
) -> None:
    text = shape.replace("{}", HOSTILE[kind][:1000])
    given = {"method": "grpo", "model": "a/b", "data": "c/d", **field(text)}
    with pytest.raises(CarlError) as caught:  # a SpecError, or there is no such file
        bundler().render(plan(TrainSpec.model_validate(given)))
    assert getattr(caught.value, "remedy", None) or caught.value.problems


def attempt(document: dict[str, Any]) -> str | CarlError:
    """The script of a spec, or the error that refuses it."""
    try:
        return rendered(document)
    except CarlError as error:
        return error


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("field", FIELDS)
def test_hostile_text_stays_in_the_configuration(field: str, kind: str) -> None:
    # That a file is read instead of the hub is decided by the suffix.
    suffix = ".jsonl" if field == "eval.data.id" else ""
    path, text = FIELDS[field], HOSTILE[kind] + suffix
    script = attempt(put(path, text))
    if isinstance(script, CarlError):
        problems = getattr(script, "problems", [])
        named = [problem.where for problem in problems] or [str(script)]
        assert any(path[0] in where for where in named)
        assert script.exit_code == 2
        return
    script.encode("utf-8")
    assert len(BLOCK.findall(script)) == 1
    if path[0] != "dependencies":
        assert outside_configuration(script) == outside_configuration(plain())
    spec = ast.literal_eval(config_of(ast.parse(script)))["spec"]
    assert at(spec, path) == text


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_metric_stays_in_the_configuration(kind: str) -> None:
    specs = [
        {"method": "sft", "eval": {"every": 5, "metric": metric}}
        for metric in (HOSTILE[kind], "loss")
    ]
    script = attempt(specs[0])
    if isinstance(script, CarlError):
        assert "eval.metric" in str(script)
        assert script.exit_code == 2
    else:
        assert outside_configuration(script) == outside_configuration(
            rendered(specs[1])
        )


def test_ordinary_text_is_accepted() -> None:
    assert len(BLOCK.findall(plain())) == 1


positive = st.integers(1, 10_000)
rates = st.floats(1e-8, 1.0, exclude_min=True)


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    """Specs over every choice, with other numbers and texts each time."""
    method = draw(st.sampled_from([*KINDS, "pipeline"]))
    numbers = {"learning_rate": rates, "max_steps": positive}
    scorer = st.sampled_from(
        [
            {"name": "exact_answer"},
            {"name": "pattern", "pattern": "[0-9]+", "full": True},
            {"name": "length", "target": 20},
            {"name": "conciseness"},
            {"name": "tool_call_format", "tools": [{"name": "read"}]},
            {"name": "click_inside", "width": 3, "height": 4, "scale": 1},
        ]
    )
    document: dict[str, Any] = {
        "method": method,
        "seed": draw(st.integers(0, 2**32 - 1)),
        "name": draw(st.from_regex(r"\A[a-z][a-z0-9._-]{0,20}\Z")),
        "carl": {"enabled": draw(st.booleans()), "weight": draw(rates)},
        "gate": {"mode": draw(st.sampled_from(["threshold", "plateau"]))},
        "report_to": draw(st.sampled_from(["none", ["trackio"], ["wandb", "trackio"]])),
        **{name: draw(st.fixed_dictionaries(numbers)) for name in KINDS},
        "rewards": draw(st.lists(scorer, unique_by=lambda r: r["name"], max_size=3)),
        "lora": draw(st.sampled_from([None, False, {"r": 4}, {"targets": ["q"]}])),
    }
    if draw(st.booleans()):
        text = draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=50))
        document["model"] = {**BASE["model"]}
        document["data"] = {**BASE["data"], "system_prompt": text}
    if method == "pipeline":
        document["eval"] = {
            "threshold": draw(st.sampled_from([None, 0.5])),
            "baseline": draw(st.sampled_from([None, "sft"])),
        }
    return document


_trees: dict[str, str] = {}


@settings(max_examples=60)
@given(specs())
def test_the_code_of_a_script_depends_on_its_structure_alone(
    document: dict[str, Any],
) -> None:
    try:
        spec = TrainSpec.model_validate(document)
    except SpecError:
        return
    script = bundler().render(plan(spec))
    tree = ast.parse(script)
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement).startswith(
            "CONFIG ="
        ):
            statement.value = ast.Constant(None)
    key = repr(sorted(structure(resolve(spec)).items()))
    dumped = ast.dump(tree)
    assert _trees.setdefault(key, dumped) == dumped
    assert script == bundler().render(plan(spec))


@settings(max_examples=8)
@given(specs())
def test_black_leaves_every_script_alone(document: dict[str, Any]) -> None:
    try:
        script = bundler().render(plan(TrainSpec.model_validate(document)))
    except SpecError:
        return
    assert black.format_str(script, mode=black.Mode()) == script
