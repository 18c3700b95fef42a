"""Tools and environments in a spec: what is refused, and what the script is told."""

from __future__ import annotations

from typing import Any

import pytest

from carl_bundle.errors import SpecError
from carl_bundle.recipes.config import configuration
from carl_bundle.spec.defaults import resolve
from carl_bundle.spec.tool_template import shows_tool_calls
from carl_bundle.spec.train_spec import TrainSpec
from tests import tiny
from tests.tool_calls import QWEN3

MODEL = {"model": "org/model", "method": "grpo"}


def spec_of(**fields: Any) -> TrainSpec:
    return TrainSpec.model_validate({**MODEL, **fields})


def config_of(**fields: Any) -> dict[str, Any]:
    spec = spec_of(**fields)
    return configuration(resolve(spec), spec)


USER = {"environments": ["mine.py:Shop"]}


@pytest.mark.parametrize(
    ("where", "fields", "better"),
    [
        (
            "environments, method",
            {"environments": ["python"], "method": "rloo"},
            {"environments": ["python"]},
        ),
        (
            "tools, method",
            {"tools": ["a.py:f"], "method": "pipeline", "data": "x.jsonl"}
            | {"rewards": [{"name": "exact_answer"}]},
            {"method": "sft", "data": "x.jsonl"},
        ),
        (
            "environments, model",
            {"environments": ["sql"], "model": "builtin"},
            {"environments": ["sql"]},
        ),
        (
            "environments.0, data",
            USER,
            {**USER, "data": "rows.jsonl"},
        ),
        (
            "environments",
            {"environments": ["python", "python"]},
            {"environments": ["python"]},
        ),
        (
            "environments",
            {"environments": [{"name": "python", "weight": 0.0}]},
            {"environments": ["python"]},
        ),
        (
            "environments.0",
            {"environments": [{"weight": 1.0}]},
            {"environments": [{"name": "sql", "weight": 1.0}]},
        ),
        (
            "environments.0",
            {"environments": ["mine:Shop"], "data": "rows.jsonl"},
            {**USER, "data": "rows.jsonl"},
        ),
        (
            "tools.0",
            {"tools": ["look"], "environments": ["python"]},
            {"tools": ["mine.py:look"], "environments": ["python"]},
        ),
        (
            "rewards.0",
            {"environments": ["python"], "rewards": [{"name": "exact_answer"}]},
            {"environments": ["python"], "rewards": [{"name": "length", "target": 9}]},
        ),
        (
            "rewards",
            {"tools": ["mine.py:look"], "data": "rows.jsonl"},
            {"tools": ["mine.py:look"], "data": "rows.jsonl"}
            | {"rewards": [{"name": "exact_answer"}]},
        ),
    ],
)
def test_what_does_not_go_together_is_refused(
    where: str, fields: dict[str, Any], better: dict[str, Any]
) -> None:
    with pytest.raises(SpecError) as caught:
        spec_of(**fields)
    found = {problem.where: problem for problem in caught.value.problems}
    assert where in found
    assert found[where].remedy
    spec_of(**better)


def test_an_unknown_environment_is_named() -> None:
    with pytest.raises(SpecError, match="ruby"):
        spec_of(environments=["ruby"])


def test_a_script_is_told_its_environments_and_their_columns() -> None:
    kinds = ["python", {"name": "sql", "weight": 0.5}]
    block = config_of(environments=kinds, data="rows.jsonl")["grpo"]
    assert block["environments"] == {"python": 1.0, "sql": 0.5}
    wanted = {"prompt", "environment", "tests", "databases", "query"}
    assert set(block["data"]["columns"]) == wanted
    assert block["trainer"]["reward_weights"] == [0.5]
    assert block["rewards"] == []
    single = config_of(environments=["sql"], data="rows.jsonl")["grpo"]
    assert set(single["data"]["columns"]) == {"prompt", "databases", "query"}


@pytest.mark.parametrize(
    ("fields", "maximum"),
    [
        ({"environments": ["python"]}, 1.0),
        ({"environments": [{"name": "sql", "weight": 0.5}, "python"]}, None),
        ({"environments": ["sql", "python"]}, 1.0),
        ({**USER, "data": "rows.jsonl"}, None),
        (
            {"environments": ["python"], "rewards": [{"name": "length", "target": 9}]},
            2.0,
        ),
    ],
)
def test_the_cascade_knows_the_most_that_a_row_can_earn(
    fields: dict[str, Any], maximum: float | None
) -> None:
    assert config_of(**fields)["grpo"]["maximum"] == maximum


def test_other_scripts_are_told_of_no_tools() -> None:
    other = config_of(data="rows.jsonl", rewards=[{"name": "exact_answer"}])["grpo"]
    assert not {"tools", "environments"} & set(other)


@pytest.mark.parametrize(
    ("template", "shows"),
    [
        (QWEN3, True),
        (tiny.CHAT_TEMPLATE, False),
        ("{{ messages }}", True),
        ("{{ raise_exception('no') }}", False),
        ("{{ messages[9].x.y }}", False),
        ("{% for m in messages %}{{ m.content }}{{ m.tool_calls }}{% endfor %}", True),
        ("{% for m in messages %}{{ m.tool_calls }}{% endfor %}", False),
        ("", False),
    ],
)
def test_a_template_shows_calls_if_all_of_one_appears(
    template: str, shows: bool
) -> None:
    assert shows_tool_calls(template, {}) is shows


def test_arguments_as_text_are_shown_too() -> None:
    text = "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}"
    text += "{{ c.function.name + c.function.arguments }}{% endfor %}{% endfor %}"
    assert shows_tool_calls(text, {})
