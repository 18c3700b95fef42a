"""The model, tokenizer and task that need no network."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from carl_runtime_min.builtin import (
    builtin_judged,
    builtin_model,
    builtin_pairs,
    builtin_rows,
    builtin_tokenizer,
)


def test_every_character_is_a_token_and_comes_back() -> None:
    words = builtin_tokenizer()
    text = "reverse 0123456789, please!"
    ids = words(text)["input_ids"]
    assert len(ids) == len(text)
    assert words.decode(ids) == text
    assert words("é")["input_ids"] == words("?")["input_ids"]


def test_a_conversation_ends_with_the_end_token_and_knows_its_answer() -> None:
    words = builtin_tokenizer()
    turns = [
        {"role": "system", "content": "be terse"},
        {"role": "user", "content": "12"},
        {"role": "assistant", "content": "21"},
    ]
    out = words.apply_chat_template(
        turns, return_dict=True, return_assistant_tokens_mask=True
    )
    ids, mask = out["input_ids"], out["assistant_masks"]
    learned = [i for i, own in zip(ids, mask, strict=True) if own]
    assert words.decode(learned) == "21<|end|>"
    assert ids[-1] == words.eos_token_id
    prompt = words.apply_chat_template(turns[:2], add_generation_prompt=True)
    assert ids[: len(prompt["input_ids"])] == prompt["input_ids"]
    assert words.pad_token_id != words.eos_token_id


def test_the_model_is_about_a_million_weights_from_one_seed() -> None:
    words = builtin_tokenizer()
    model, same = builtin_model(words, 3), builtin_model(words, 3)
    other = builtin_model(words, 4)
    assert 0.9e6 < sum(p.numel() for p in model.parameters()) < 1.2e6
    assert model.get_output_embeddings().weight.shape[0] == len(words)
    for a, b, c in zip(*(m.parameters() for m in (model, same, other)), strict=True):
        assert torch.equal(a, b)
        assert a.dim() == 1 or not torch.equal(a, c)
    assert model.generation_config.eos_token_id == words.eos_token_id


def test_rows_are_checkable_and_the_parts_never_share_one() -> None:
    parts = {name: builtin_rows(name, 5, 400) for name in ("sft", "grpo", "eval")}
    for rows in parts.values():
        assert len(rows) == 400
        for row in rows:
            assert len(row["prompt"]) == 6
            assert row["prompt"].isdigit()
            assert row["answer"] == row["prompt"][::-1]
    seen = [set(rows["prompt"]) for rows in parts.values()]
    assert len(set.union(*seen)) == sum(map(len, seen))
    assert len(seen[2]) > 390


def test_rows_depend_on_the_seed_and_on_nothing_else() -> None:
    rows = builtin_rows("sft", 5, 50)
    assert builtin_rows("sft", 5, 60)["prompt"][:50] == rows["prompt"][:50]
    assert builtin_rows("sft", 6, 50)["prompt"][:] != rows["prompt"][:]


def test_pairs_hold_the_answer_and_one_with_one_wrong_digit() -> None:
    rows = builtin_pairs("sft", 5, 300)
    assert rows["prompt"][:] == builtin_rows("sft", 5, 300)["prompt"][:]
    places, changes = set(), set()
    for row in rows:
        right, answered = row["prompt"][::-1], row["rejected"]
        assert row["chosen"] == right
        assert len(answered) == 6
        assert answered.isdigit()
        [place] = [i for i in range(6) if answered[i] != right[i]]
        places.add(place)
        changes.add((int(answered[place]) - int(right[place])) % 10)
    assert places == {*range(6)}
    assert changes == {*range(1, 10)}


def test_judged_answers_are_right_and_wrong_in_turn() -> None:
    rows = builtin_judged("sft", 5, 301)
    assert set(rows.column_names) == {"prompt", "completion", "label"}
    assert rows.features["label"].dtype == "bool"
    assert rows["label"][:] == ([True, False] * 151)[:301]
    for row in rows:
        assert (row["completion"] == row["prompt"][::-1]) is row["label"]
    wrong = builtin_pairs("sft", 5, 301)["rejected"][1::2]
    assert rows["completion"][1::2] == wrong
    assert rows["prompt"][:] == builtin_rows("sft", 5, 301)["prompt"][:]


@pytest.mark.parametrize("make", [builtin_pairs, builtin_judged])
def test_preferences_depend_on_the_seed_and_on_nothing_else(make: Any) -> None:
    rows = make("sft", 5, 50).to_list()
    assert make("sft", 5, 60).to_list()[:50] == rows
    assert make("sft", 6, 50).to_list() != rows
    held_out = make("eval", 5, 50)["prompt"]
    assert all(sum(map(int, prompt)) % 3 == 2 for prompt in held_out)
