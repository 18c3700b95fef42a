"""Where a line comes from, why it is there, and which setting put it there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from carl_bundle import TrainSpec, bundle
from carl_bundle.bundler.cut import runtime_root
from carl_bundle.bundler.explain import Explainer, Explanation
from carl_bundle.bundler.provenance import Script
from carl_bundle.bundler.render import render
from carl_bundle.errors import UsageError
from carl_bundle.recipes import plan


def line_of(script: str, text: str) -> int:
    return script[: script.index(text)].count("\n") + 1


def explained(script: str, text: str) -> Explanation:
    return Explainer(Script.parse(script)).explain(line_of(script, text))


def test_every_line_of_a_slice_leads_to_its_source(default_script: str) -> None:
    explainer = Explainer(Script.parse(default_script))
    lines = default_script.split("\n")
    checked = 0
    for number, line in enumerate(lines[:-1], 1):
        found = explainer.explain(number)
        file, _, origin = found.origin.rpartition(":")
        if found.section.startswith("carl_runtime_min/") and found.definition:
            source = (runtime_root().parent / file).read_text().split("\n")
            assert source[int(origin) - 1] == line
            checked += 1
    assert checked > 300


def test_a_slice_is_reached_from_the_wiring(default_script: str) -> None:
    found = explained(default_script, "def coherence_components(")
    assert found.why[0] == "grpo"
    assert found.why[-1] == "coherence_components"
    assert "carl = true" in found.settings


def test_the_wiring_names_its_template_and_its_choices(default_script: str) -> None:
    found = explained(default_script, "    gate = PhaseTransitionGate(")
    assert found.origin == "templates/train.py.jinja"
    assert "gate = threshold" in found.settings
    assert explained(default_script, "def main(").settings == ()


def test_a_setting_is_traced_to_the_spec_or_to_a_default() -> None:
    spec = TrainSpec.model_validate({"seed": 5, "grpo": {"learning_rate": 1e-4}})
    script = bundle(spec)
    start = script.index('"grpo": {')
    place = start + script[start:].index('"learning_rate"')
    found = Explainer(Script.parse(script)).explain(script[:place].count("\n") + 1)
    assert found.origin == "CONFIG['grpo']['trainer']['learning_rate']"
    assert found.settings == ("grpo.learning_rate",)
    found = explained(script, '    "name": "carl"')
    assert found.settings == ("the default of name",)


CHOSEN: dict[str, Any] = {
    "model": {"id": "m/m", "revision": "a" * 40, "dtype": "bfloat16"},
    "data": "rows.jsonl",
    "sft": {"data": "more.jsonl", "max_steps": 3, "trainer": {"optim": "sgd"}},
    "lora": {"alpha": 8, "targets": ["q_proj"]},
    "rewards": [
        {"name": "pattern", "pattern": "x"},
        {"name": "conciseness"},
        {"name": "tool_selection", "tools": [{"name": "read"}]},
    ],
    "carl": {"weight": 0.3},
    "eval": {"items": 5},
    "report_to": "trackio",
}


def settings_by_key(spec: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """For each key of a script's CONFIG, what `carl explain` says it is set by."""
    script = render(plan(TrainSpec.model_validate(spec)))
    explainer = Explainer(Script.parse(script))
    part = next(one for one in explainer.parts() if one.name == "configuration")
    found = map(explainer.explain, range(part.first, part.last + 1))
    return {one.origin.removeprefix("CONFIG"): one.settings for one in found}


@pytest.fixture(scope="module")
def chosen() -> dict[str, tuple[str, ...]]:
    return settings_by_key(CHOSEN)


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("['environment']", "the recipe"),
        ("['environment']['DO_NOT_TRACK']", "the recipe"),
        ("['model']", ""),
        ("['model']['adapter']", "lora"),
        ("['model']['options']['dtype']", "model.dtype"),
        (
            "['model']['options']['attn_implementation']",
            "the default of model.attention",
        ),
        ("['lora']['lora_alpha']", "lora.alpha"),
        ("['lora']['lora_dropout']", "the default of lora.dropout"),
        ("['targets']", "lora.targets"),
        ("['targets'][0]", "lora.targets"),
        ("['sft']['data']['id']", "sft.data.id"),
        ("['sft']['data']['limit']", "the default of sft.data.limit"),
        ("['sft']['trainer']['max_steps']", "sft.max_steps"),
        ("['sft']['trainer']['optim']", "sft.trainer.optim"),
        ("['sft']['trainer']['report_to']", "the recipe"),
        ("['sft']['trainer']['seed']", "the default of seed"),
        ("['sft']['report_to']", "report_to"),
        ("['grpo']['data']['id']", "data.id"),
        ("['grpo']['data']['part']", "eval.items"),
        ("['grpo']['trainer']['reward_weights']", "rewards, carl.weight"),
        ("['grpo']['rewards'][0]['pattern']", "rewards.0.pattern"),
        (
            "['grpo']['rewards'][1]['limit']",
            "the default of grpo.max_completion_length",
        ),
        ("['grpo']['rewards'][2]['tools']", "rewards.2.tools"),
        ("['grpo']['rewards'][2]['tools'][0]['name']", "rewards.2.tools.0.name"),
        ("['grpo']['cascade']['carl_weight']", "carl.weight"),
        ("['eval']['data']['limit']", "eval.items"),
        ("['eval']['max_new_tokens']", "the default of grpo.max_completion_length"),
        ("['spec']['sft']['max_steps']", "sft.max_steps"),
    ],
)
def test_a_key_of_another_name_is_traced_too(
    chosen: dict[str, tuple[str, ...]], key: str, settings: str
) -> None:
    assert ", ".join(chosen[key]) == settings


def blocks_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [block for one in get_args(annotation) for block in blocks_in(one)]


def fields(block: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, info in block.model_fields.items():
        yield f"{prefix}{name}"
        for inner in blocks_in(info.annotation):
            yield from fields(inner, f"{prefix}{name}.")


PUSHED = {"method": "sft", "push": {"repo": "a/b", "enabled": True}}


ROWS = [{"id": "a.jsonl", "weight": 2, "columns": {"answer": "x"}}, "builtin"]
MIXED = {
    "method": "sft",
    "model": {"id": "m/m", "revision": "a" * 40},
    "data": ROWS,
    "eval": {"every": 5, "data": "a.jsonl"},
}


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("['mix'][0]['weight']", "data.mix.0.weight"),
        ("['mix'][0]['kind']", "data.mix.0.id"),
        ("['mix'][0]['data']['id']", "data.mix.0.id"),
        ("['mix'][0]['data']['columns']['answer']", "data.mix.0.columns.answer"),
        ("['mix'][0]['data']['part']", "the recipe"),
        ("['mix'][0]['data']['longest']", "the default of sft.max_length"),
        ("['mix'][1]['data']['id']", "the default of data.mix.1.id"),
        ("['mix'][1]['rows']['count']", "the default of data.mix.1.limit"),
        ("['validation']['mix'][0]['data']['id']", "eval.data.id"),
    ],
)
def test_a_source_of_a_mixture_is_traced(key: str, settings: str) -> None:
    assert ", ".join(settings_by_key(MIXED)[f"['sft']{key}"]) == settings


@pytest.mark.parametrize("spec", [{"method": "grpo"}, PUSHED, CHOSEN, MIXED])
def test_all_that_sets_a_key_is_a_setting(spec: dict[str, Any]) -> None:
    known = {*fields(TrainSpec), "the recipe", "the spec"}
    for key, settings in settings_by_key(spec).items():
        for setting in settings:
            name = re.sub(r"\.\d+", "", setting.removeprefix("the default of "))
            free = re.match(r"(.*\.(?:trainer|columns|tools))\.", name)
            assert (free[1] if free else name) in known, key


def test_an_import_names_who_uses_it(default_script: str) -> None:
    found = explained(default_script, "\nimport torch\n"[1:])
    assert "token_field" in found.why


def test_the_header(default_script: str) -> None:
    assert "pin" in explained(default_script, '#     "torch==').origin
    assert "notice" in explained(default_script, "# SPDX").origin
    assert "docstring" in explained(default_script, '"""').origin


def test_the_overview_lists_sections_and_user_code(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import json\n\ndef mine(completions):\n"
        "    return [float(len(json.dumps(c))) for c in completions]\n"
    )
    spec = TrainSpec.model_validate({"rewards": [{"function": "mine.py:mine"}]})
    explainer = Explainer(Script.parse(bundle(spec, user_root=tmp_path)))
    names = [part.name for part in explainer.parts()]
    assert names[:2] == ["header", "configuration"]
    assert names[-2:] == ["mine.py", "wiring"]
    [user] = explainer.user_parts()
    assert (user.imports, user.calls) == (("json",), ("float", "json.dumps", "len"))
    assert "Gate" in {name for part in explainer.parts() for name in part.definitions}


def test_an_edited_slice_says_so(default_script: str) -> None:
    script = default_script.replace("def carl_reward(", "def carl_reward( ", 1)
    assert "another text" in explained(script, "def carl_reward( ").origin


def test_a_line_that_is_not_there(default_script: str) -> None:
    explainer = Explainer(Script.parse(default_script))
    for line in (0, 10**6):
        with pytest.raises(UsageError, match="no line"):
            explainer.explain(line)
