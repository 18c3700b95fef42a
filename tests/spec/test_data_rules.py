"""Mixtures, streams and names of metrics: what a spec may say, and what it means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from carl_bundle.errors import SpecError
from carl_bundle.recipes import plan
from carl_bundle.spec.freeze import freeze
from carl_bundle.spec.train_spec import TrainSpec
from tests.fake_hub import COMMIT, FakeHub

TWO = ["a.jsonl", {"id": "b.jsonl", "weight": 3}]
STREAM = {"id": "a.jsonl", "streaming": True}


def spec(**given: Any) -> dict[str, Any]:
    model = {"id": "m/m", "revision": "a" * 40}
    return {"method": "sft", "model": model, "data": TWO, **given}


def config(**given: Any) -> dict[str, Any]:
    return plan(TrainSpec.model_validate(spec(**given))).config


def problems(**given: Any) -> dict[str, str]:
    with pytest.raises(SpecError) as caught:
        TrainSpec.model_validate(spec(**given))
    assert all(problem.remedy for problem in caught.value.problems)
    return {problem.where: problem.message for problem in caught.value.problems}


def test_a_list_is_a_mixture_and_a_string_is_a_source() -> None:
    one = TrainSpec.model_validate(spec())
    other = TrainSpec.model_validate(spec(data={"mix": TWO}))
    assert one == other
    assert one.document()["data"] == {
        "mix": [{"id": "a.jsonl"}, {"id": "b.jsonl", "weight": 3.0}]
    }
    assert TrainSpec.model_validate(one.document()) == one


def test_every_source_keeps_its_own_settings() -> None:
    second = {"id": "b.jsonl", "limit": 5, "columns": {"answer": "reply"}}
    mix = config(data=["a.jsonl", second, {"id": "builtin", "limit": 7}])["sft"]["mix"]
    assert [one["kind"] for one in mix] == ["file", "file", "builtin"]
    assert [one["data"]["limit"] for one in mix] == [None, 5, 7]
    assert mix[1]["data"]["columns"] == {"answer": "reply"}
    assert mix[2]["rows"]["count"] == 7
    assert {one["data"]["longest"] for one in mix} == {1024}


@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_prompts_of_every_source_leave_room_for_a_completion(method: str) -> None:
    given = {"method": method, "rewards": [{"name": "exact_answer"}]}
    found = config(**given)[method]
    assert [one["data"]["longest"] for one in found["mix"]] == [2048 - 512] * 2
    assert found["mix"][1]["data"]["columns"] == {
        "prompt": "prompt",
        "answer": "answer",
    }


def test_held_out_rows_are_left_out_of_the_mixture() -> None:
    found = config(eval={"every": 5, "items": 9, "data": "b.jsonl"})["sft"]
    assert [one["data"]["part"] for one in found["mix"]] == [[None, None], [None, -9]]
    [held] = found["validation"]["mix"]
    assert (held["data"]["part"], held["data"]["limit"]) == ([-9, None], 9)


def test_in_a_pipeline_too() -> None:
    given = {"method": "pipeline", "rewards": [{"name": "exact_answer"}]}
    found = config(**given, eval={"items": 9, "data": "a.jsonl"})
    for phase in ("sft", "grpo"):
        parts = [one["data"]["part"] for one in found[phase]["mix"]]
        assert parts == [[None, -9], [None, None]]
    assert found["eval"]["data"]["part"] == [-9, None]


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"data": {"mix": TWO, "limit": 5}}, "data.limit"),
        ({"data": {"mix": TWO, "id": "c.jsonl"}}, "data.id"),
        ({"data": ["a.jsonl", {"id": "b.jsonl", "weight": 0}]}, "data.1.weight"),
        ({"data": ["a.jsonl", {"id": "b.jsonl", "weigt": 2}]}, "data.1.weigt"),
        ({"data": ["a.jsonl"]}, "data"),
        ({"data": ["a.jsonl", {"mix": TWO}]}, "data.1.mix"),
        ({"data": ["a.jsonl", {"id": "https://x/y"}]}, "data.mix.1.id"),
        ({"data": [{"id": "a.jsonl", "revision": "x"}, "b/c"]}, "data.mix.0.revision"),
        ({"eval": {"every": 5}}, "eval.data"),
        ({"data": STREAM}, "sft.max_steps"),
        (
            {"data": STREAM, "sft": {"max_steps": 5, "too_long": "refuse"}},
            "sft.too_long",
        ),
        ({"data": [STREAM, "b.jsonl"], "sft": {"max_steps": 5}}, "data.mix"),
        ({"data": {"streaming": True}, "sft": {"max_steps": 5}}, "data.streaming"),
        (
            {"data": STREAM, "sft": {"max_steps": 5}, "eval": {"every": 5}},
            "eval.data",
        ),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], where: str) -> None:
    assert where in problems(**given)


def test_an_unknown_key_of_a_source_suggests_the_nearest() -> None:
    with pytest.raises(SpecError) as caught:
        TrainSpec.model_validate(spec(data=["a.jsonl", {"id": "b", "weigt": 2}]))
    assert "'weight'" in caught.value.problems[0].remedy


@pytest.mark.parametrize("method", ["grpo", "rloo", "dpo", "kto", "orpo"])
def test_only_sft_streams(method: str) -> None:
    sampled = method in ("grpo", "rloo")
    given = {"rewards": [{"name": "exact_answer"}]} if sampled else {}
    found = problems(method=method, data=STREAM, **{method: {"max_steps": 5}}, **given)
    assert set(found) == {"data.streaming"}


def test_the_phase_that_streams_says_so() -> None:
    given = {"data": STREAM, "sft": {"max_steps": 5}}
    held = {"every": 5, "items": 9, "data": "other.jsonl"}
    found = config(**given, eval=held)["sft"]
    assert found["data"]["endless"] is True
    assert found["validation"]["data"]["endless"] is False


def test_every_source_is_pinned(hub: FakeHub, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}\n")
    hub.datasets.add("org/rows")
    given = {"method": "sft", "data": [str(rows), {"id": "org/rows", "weight": 2}]}
    frozen = freeze(TrainSpec.model_validate(given))
    assert frozen.data.mix is not None
    assert frozen.data.mix[0].sha256 is not None
    assert (frozen.data.mix[1].revision, frozen.data.mix[1].weight) == (COMMIT, 2.0)
    rows.unlink()
    document = json.loads(json.dumps(frozen.document()))
    assert freeze(TrainSpec.model_validate(document)) == frozen


@pytest.mark.parametrize(
    ("method", "metric", "nearest"),
    [
        ("sft", "los", "loss"),
        ("sft", "eval_mean_token_acuracy", "mean_token_accuracy"),
        ("dpo", "rewards/accuracy", "rewards/accuracies"),
        ("grpo", "rewards/exact_answer/men", "rewards/exact_answer/mean"),
    ],
)
def test_a_misspelt_metric_is_refused_with_the_nearest(
    method: str, metric: str, nearest: str
) -> None:
    given = {"rewards": [{"name": "exact_answer"}]} if method == "grpo" else {}
    held = {"every": 5, "metric": metric}
    with pytest.raises(SpecError) as caught:
        TrainSpec.model_validate(
            spec(method=method, data="a.jsonl", eval=held, **given)
        )
    [problem] = caught.value.problems
    assert (problem.where, nearest in problem.remedy) == ("eval.metric", True)


def test_a_metric_that_is_reported_is_taken() -> None:
    known = [("sft", "mean_token_accuracy"), ("sft", "eval_loss"), ("kto", "kl")]
    known += [("orpo", "nll_loss"), ("dpo", "phi/chosen")]
    for method, metric in known:
        held = {"every": 5, "metric": metric}
        TrainSpec.model_validate(spec(method=method, data="a.jsonl", eval=held))
    own = {"every": 5, "metric": "of_my_own"}
    rewards = [{"function": "mine.py:score"}]
    TrainSpec.model_validate(
        spec(method="grpo", data="a.jsonl", eval=own, rewards=rewards)
    )


def test_a_gate_watches_what_sft_reports() -> None:
    found = problems(data="a.jsonl", gate={"metric": "mean_token_acuracy"})
    assert set(found) == {"gate.metric"}
