"""Answers, their scores, and what two models' scores prove."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from carl_runtime_min.errors import CarlError
from carl_runtime_min.evaluation import (
    both_verdicts,
    item_scores,
    paired_verdict,
    rate_verdict,
    sample_answers,
)
from tests import reference, tiny, trainers

WORDS = tiny.tokenizer()
WIDTH = 320
SETTINGS = {"temperature": 1.0, "batch_size": 4, "max_new_tokens": 10}


def answers(model: Any, rows: Any, seed: int = 0, **given: Any) -> list[dict[str, Any]]:
    torch.manual_seed(seed)
    prompts, settings = rows["prompt"][:], {**SETTINGS, **given}
    return sample_answers(model, tiny.tokenizer(), prompts, settings)


def start(prompt: Any) -> list[int]:
    if isinstance(prompt, str):
        return list(WORDS(prompt)["input_ids"])
    ids = WORDS.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"]
    return list(ids)


def greedy(model: Any, prompt: Any, count: int) -> list[int]:
    """The likeliest tokens, one plain forward each."""
    ids, ends = start(prompt), set(model.generation_config.eos_token_id)
    length = len(ids)
    for _ in range(count):
        with torch.no_grad():
            ids.append(int(model.eval()(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in ends:
            break
    return ids[length:]


def mean_phi(model: Any, prompt: Any, tokens: list[int], temperature: float) -> float:
    ids = start(prompt)
    with torch.no_grad():
        logits = model.eval()(torch.tensor([ids + tokens])).logits[0]
    rows = logits[len(ids) - 1 : -1].tolist()
    field = [
        reference.phi_of(reference.field_of_row(row, token, temperature)[0], WIDTH)
        for row, token in zip(rows, tokens, strict=True)
    ]
    return math.fsum(field) / len(field)


PLAIN_ROWS = Dataset.from_list(tiny.questions(10))
CHATS = trainers.chats(10)


@pytest.mark.parametrize("rows", [CHATS, PLAIN_ROWS])
def test_without_temperature_the_likeliest_tokens_are_taken(rows: Any) -> None:
    model = tiny.model(seed=4)
    found = answers(model, rows, temperature=0.0)
    for row, answer in zip(rows, found, strict=True):
        assert answer["token_ids"] == greedy(model, row["prompt"], 10)
        exact = mean_phi(model, row["prompt"], answer["token_ids"], 1.0)
        assert answer["phi"] == pytest.approx(exact, abs=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_samples_end_where_the_model_ends_them(temperature: float) -> None:
    """At any of the model's end tokens, which counts; never with padding."""
    model = tiny.model()
    found = answers(model, CHATS, temperature=temperature, max_new_tokens=60)
    ends = set(model.generation_config.eos_token_id)
    lengths = {len(answer["token_ids"]) for answer in found}
    assert len(lengths) > 1
    for row, answer in zip(CHATS, found, strict=True):
        tokens = answer["token_ids"]
        assert not ends & set(tokens[:-1])
        assert tokens[-1] in ends or len(tokens) == 60
        assert answer["text"] == WORDS.decode(tokens, skip_special_tokens=True)
        exact = mean_phi(model, row["prompt"], tokens, temperature)
        assert answer["phi"] == pytest.approx(exact, abs=1e-5)


def test_the_tokenizers_end_counts_though_the_model_does_not_list_it() -> None:
    model = tiny.model()
    model.generation_config.eos_token_id = None
    model.config.eos_token_id = None
    with torch.no_grad():  # the end of a turn is by far the likeliest
        model.lm_head.weight[WORDS.eos_token_id] *= 0
        model.lm_head.weight *= 0.01
    found = answers(model, CHATS, max_new_tokens=200, batch_size=10)
    ended = [x["token_ids"] for x in found if WORDS.eos_token_id in x["token_ids"]]
    assert ended
    assert all(ids.index(WORDS.eos_token_id) == len(ids) - 1 for ids in ended)


def test_one_seed_gives_one_set_of_answers() -> None:
    model = tiny.model()
    first = answers(model, CHATS, seed=3)
    assert answers(model, CHATS, seed=3) == first
    assert answers(model, CHATS, seed=4) != first


def test_only_the_policy_decides_not_its_generation_defaults() -> None:
    model, plain = tiny.model(), tiny.model()
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.top_k = 1
    model.generation_config.do_sample = True
    for temperature in (0.0, 1.0):
        given = {"temperature": temperature}
        assert answers(model, CHATS, **given) == answers(plain, CHATS, **given)


def test_an_evaluation_can_be_stopped_and_run_again(tmp_path: Path) -> None:
    """While the first of three batches is answered, it is asked to stop."""
    model, run, asked = tiny.model(), trainers.run_dir(tmp_path, "eval"), []

    def generate(**batch: Any) -> Any:
        asked.append((tmp_path / "stop").touch())
        return type(model).generate(model, **batch)

    model.generate = generate
    with pytest.raises(CarlError, match="asked to stop") as stopped:
        sample_answers(model, WORDS, CHATS["prompt"][:], SETTINGS, run)
    assert stopped.value.exit_code == 85
    assert len(asked) == 1
    (tmp_path / "stop").unlink()
    del model.generate
    assert len(sample_answers(model, WORDS, CHATS["prompt"][:], SETTINGS, run)) == 10


def answered(*texts: str) -> list[dict[str, Any]]:
    return [{"text": text, "token_ids": [1] * len(text), "phi": 0.5} for text in texts]


def by_length(completion_ids: list[Any], **_: Any) -> list[float | None]:
    return [len(ids) / 4 for ids in completion_ids]


def sometimes(completions: list[Any], **_: Any) -> list[float | None]:
    return [1.0, None]


def test_scores_are_weighted_means_of_the_task_rewards() -> None:
    rows = Dataset.from_list([{"prompt": "a"}, {"prompt": "b"}])
    found = item_scores(
        answered("xy", "xyzw"), rows, [by_length, sometimes], [1.0, 3.0]
    )
    assert found == [(0.5 + 3.0) / 4, 1.0 / 4]


@pytest.mark.parametrize(("rows", "chat"), [(CHATS, True), (PLAIN_ROWS, False)])
def test_a_reward_function_sees_what_it_saw_in_training(rows: Any, chat: bool) -> None:
    """The same names and shapes as TRL gives: a user's function needs no other case."""
    seen: dict[str, Any] = {}

    def users(
        prompts: list[Any], completions: list[Any], answer: list[str], **rest: Any
    ) -> list[float]:
        seen.update(prompts=prompts, completions=completions)
        texts = [c[0]["content"] if chat else c for c in completions]
        return [float(t == a) for t, a in zip(texts, answer, strict=True)]

    expected = list(rows["answer"])
    assert item_scores(answered(*expected), rows, [users], [1.0]) == [1.0] * 10
    assert list(seen["prompts"]) == list(rows["prompt"])
    if chat:
        assert seen["completions"][0] == [{"role": "assistant", "content": expected[0]}]


TEST = {"item_pass": 1.0, "alpha": 0.05, "threshold": 0.8}


@pytest.mark.parametrize(
    ("gained", "lost", "verdict"),
    [
        (5, 0, "PASS"),
        (4, 0, "INCONCLUSIVE"),
        (0, 5, "FAIL"),
        (0, 4, "INCONCLUSIVE"),
        (0, 0, "INCONCLUSIVE"),
        (9, 2, "PASS"),
        (8, 3, "INCONCLUSIVE"),
    ],
)
def test_pairs_decide(gained: int, lost: int, verdict: str) -> None:
    before = [0.0] * gained + [1.0] * lost + [1.0] * 10 + [0.5] * 5
    after = [1.0] * gained + [0.0] * lost + [1.0] * 10 + [0.9] * 5
    report = paired_verdict(before, after, TEST, seed=1)
    assert report["verdict"] == verdict
    assert (report["gained"], report["lost"]) == (gained, lost)
    items = gained + lost + 15
    assert report["items"] == items
    assert report["after"] - report["before"] == pytest.approx((gained - lost) / items)
    low, high = report["gain_interval"]
    assert low <= sum(after) / items - sum(before) / items <= high


@pytest.mark.parametrize(
    ("passes", "verdict"), [(100, "PASS"), (80, "INCONCLUSIVE"), (60, "FAIL")]
)
def test_the_pass_rate_decides(passes: int, verdict: str) -> None:
    report = rate_verdict([1.0] * passes + [0.99] * (100 - passes), TEST)
    assert report["verdict"] == verdict
    assert report["pass_rate"] == passes / 100
    assert report["bounds"][0] <= passes / 100 <= report["bounds"][1]


@pytest.mark.parametrize(
    ("paired", "rate", "verdict"),
    [
        ("PASS", "PASS", "PASS"),
        ("PASS", "INCONCLUSIVE", "INCONCLUSIVE"),
        ("FAIL", "PASS", "FAIL"),
        ("INCONCLUSIVE", "FAIL", "FAIL"),
    ],
)
def test_two_questions_need_two_answers(paired: str, rate: str, verdict: str) -> None:
    report = both_verdicts({"verdict": paired, "gained": 1}, {"verdict": rate, "n": 2})
    assert report == {"verdict": verdict, "gained": 1, "n": 2}
