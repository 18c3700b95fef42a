"""What of a spec reaches the CONFIG of its script."""

from __future__ import annotations

from typing import Any

import pytest

from carl_bundle.recipes import plan
from carl_bundle.spec.phases import KINDS
from carl_bundle.spec.train_spec import TrainSpec

COMMIT = "0123456789" * 4
PINNED: dict[str, Any] = {
    "model": {"id": "org/model", "frozen": {"commit": COMMIT}},
    "data": "rows.jsonl",
    "rewards": [{"name": "exact_answer"}],
    "lora": False,
}


def config(**fields: Any) -> dict[str, Any]:
    return plan(TrainSpec.model_validate(fields)).config


@pytest.mark.parametrize("method", KINDS)
def test_every_method_has_a_phase_with_its_columns(method: str) -> None:
    made = config(method=method)
    assert set(KINDS) & set(made) == {method}
    assert made[method]["result"] == "model"
    assert made[method]["rows"]["count"] > 0
    named = config(**PINNED, method=method)[method]["data"]["columns"]
    expected = {
        "sft": [],
        "grpo": ["prompt", "answer"],
        "rloo": ["prompt", "answer"],
        "dpo": ["prompt", "chosen", "rejected"],
        "orpo": ["prompt", "chosen", "rejected"],
        "kto": ["prompt", "completion", "label"],
    }
    assert list(named) == list(named.values()) == expected[method]


def test_a_model_is_loaded_as_the_class_that_its_checkpoint_names() -> None:
    frozen = {"commit": COMMIT, "auto_class": "image-text-to-text"}
    model = {"id": "org/model", "frozen": {**frozen, "architecture": "XForImages"}}
    assert config(**{**PINNED, "model": model})["model"]["class"] == "XForImages"
    model["trust_remote_code"] = True  # then the class is not of transformers
    loaded = config(**{**PINNED, "model": model})["model"]["class"]
    assert loaded == config(**PINNED)["model"]["class"] == "AutoModelForCausalLM"


@pytest.mark.parametrize("method", KINDS)
@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_a_reference_model_has_the_revision_of_the_policy(
    method: str, beta: float
) -> None:
    """TRL loads it by the model's name alone, which would be the newest revision."""
    settings = {} if method == "sft" or not beta else {method: {"beta": beta}}
    trainer = config(**PINNED, method=method, **settings)[method]["trainer"]
    loaded = method in ("dpo", "kto") or (beta and method in ("grpo", "rloo"))
    expected = {"revision": COMMIT} if loaded else None
    assert trainer.get("model_init_kwargs") == expected
    adapters = config(**{**PINNED, "lora": {"r": 4}}, method=method, **settings)
    assert "model_init_kwargs" not in adapters[method]["trainer"]


def test_the_reference_of_a_pipeline_is_the_result_of_its_first_phase() -> None:
    trainer = config(**PINNED, grpo={"beta": 0.1})["grpo"]["trainer"]
    assert trainer["beta"] == 0.1
    assert "model_init_kwargs" not in trainer


@pytest.mark.parametrize("method", KINDS)
def test_rows_that_choose_a_checkpoint_are_not_trained_on(method: str) -> None:
    fields = {**PINNED, "method": method, "eval": {"every": 5, "items": 30}}
    block = config(**fields)[method]
    checked = block["validation"]["data"]
    assert (block["data"]["part"], checked["part"]) == ([None, -30], [-30, None])
    assert (block["data"]["limit"], checked["limit"]) == (None, 30)
    assert checked["columns"] == block["data"]["columns"]
    trainer = block["trainer"]
    assert trainer["eval_steps"] == trainer["save_steps"] == 5
    assert trainer["load_best_model_at_end"]
    sampled = method in ("grpo", "rloo")
    assert trainer["metric_for_best_model"] == f"eval_{'reward' if sampled else 'loss'}"
    assert trainer["greater_is_better"] == sampled
    own = config(method=method, eval={"every": 5})[method]
    assert own["rows"]["part"] != own["validation"]["rows"]["part"] == "eval"


def test_an_evaluation_may_watch_without_choosing() -> None:
    given = {
        "every": 5,
        "best": False,
        "data": {"id": "b.jsonl", "columns": {"label": "l"}},
    }
    block = config(**PINNED, method="kto", eval=given)["kto"]
    assert "load_best_model_at_end" not in block["trainer"]
    assert block["data"]["part"] == [None, None]
    assert block["validation"]["data"]["columns"]["label"] == "l"


def test_a_reward_is_told_its_own_options_and_names_the_columns_it_needs() -> None:
    tools = [{"name": "read", "parameters": {}}]
    rewards = [
        {"name": "tool_call_format", "tools": tools},
        {"name": "conciseness"},
        {"name": "click_inside", "scale": 1000, "width": 640},
        {"name": "tool_chain"},
    ]
    fields = {**PINNED, "rewards": rewards, "method": "grpo"}
    fields["data"] = {"id": "rows.jsonl", "columns": {"bbox": "box"}}
    block = config(**fields, grpo={"max_completion_length": 99})["grpo"]
    assert block["rewards"] == [
        {"name": "tool_call_format", "tools": tools},
        {"name": "conciseness", "pattern": None, "limit": 99},
        {"name": "click_inside", "width": 640, "height": None, "scale": 1000},
        {"name": "tool_chain"},
    ]
    columns = {name: name for name in ("prompt", "height", "expected_tools")}
    assert block["data"]["columns"] == {**columns, "bbox": "box"}


def test_only_methods_that_sample_carry_rewards_and_the_cascade() -> None:
    for method in KINDS:
        block = config(method=method)[method]
        sampled = method in ("grpo", "rloo")
        assert {"rewards", "carl", "cascade", "samples_every"} & set(block) == (
            {"rewards", "carl", "cascade", "samples_every"} if sampled else set()
        )
        assert ("gate" in block) == (method == "sft")


@pytest.mark.parametrize(
    ("tokens", "asked", "expected"),
    [(64, "auto", False), (512, "auto", None), (64, "on", True), (512, "off", False)],
)
def test_short_answers_need_no_thinking(
    tokens: int, asked: str, expected: bool | None
) -> None:
    switch = {"thinking": "switchable", "thinking_switch": "enable_thinking"}
    model = {"id": "org/model", "frozen": {"commit": COMMIT, **switch}}
    fields: dict[str, Any] = {**PINNED, "model": {**model, "thinking": asked}}
    fields["grpo"] = {"max_completion_length": tokens}
    made = plan(TrainSpec.model_validate({**fields, "method": "grpo"}))
    template = made.config["model"].get("template")
    assert (template and template["thinking"]) == expected
    assert made.choices["template"] == (expected is not None)
    assert made.choices["split_phi"] == (expected is not False)
    supervised = plan(TrainSpec.model_validate({**fields, "method": "sft"}))
    assert supervised.choices["template"] == (asked != "auto")


def test_vllm_sets_memory_aside_for_the_longest_row_unless_told() -> None:
    def trainer(**given: Any) -> dict[str, Any]:
        made: dict[str, Any] = config(**PINNED, method="grpo", grpo=given)
        return made["grpo"]["trainer"]

    names = ("use_vllm", "vllm_mode", "vllm_max_model_length")

    def told(**given: Any) -> list[Any]:
        found = trainer(**given)
        return [found.get(name) for name in names]

    assert told() == [None, None, None]
    assert told(vllm="colocate") == [True, "colocate", 2048]
    given = {"vllm": "colocate", "trainer": {"vllm_max_model_length": 512}}
    assert told(**given) == [True, "colocate", 512]
    url = {"vllm_server_base_url": "http://10.0.0.7:8000"}
    assert told(vllm="server", trainer=url) == [True, "server", None]
    assert trainer(vllm="server", trainer=url).items() >= url.items()


def test_rows_with_images_have_the_size_that_a_reward_needs() -> None:
    """TRL must cut no row: the tokens of an image would be fewer than the image."""
    reward = {"rewards": [{"name": "click_inside", "scale": 1000}]}
    for data in ("rows.jsonl", {"id": "rows.jsonl", "columns": {"image": "shot"}}):
        seeing, spec = not isinstance(data, str), {**PINNED, **reward, "data": data}
        named = config(**spec, method="grpo")["grpo"]["data"]["columns"]
        assert ("shot" in named.values()) == seeing
        assert ("width" in named) != seeing
        block = config(**spec, method="sft")["sft"]
        assert (block["trainer"]["max_length"] is None) == seeing
        assert block["data"]["longest"] == 1024


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, None),
        ({"method": "grpo", "grpo": {"vllm": "colocate"}}, ["vLLM"]),
        ({"sharding": "zero3"}, ["DeepSpeed"]),
        ({"sharding": "fsdp2"}, None),
        ({"model": {"attention": "flash_attention_2"}}, ["flash_attention_2"]),
    ],
)
def test_what_no_test_runs_is_named(fields: dict[str, Any], named: Any) -> None:
    given = {**PINNED, "method": "sft", **fields}
    given["model"] = {**PINNED["model"], **fields.get("model", {})}
    assert config(**given).get("untried") == named
