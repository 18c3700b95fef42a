"""Task rewards: text in, score out."""

from __future__ import annotations

from typing import Any

import pytest

from carl_runtime_min.errors import UsageError
from carl_runtime_min.tasks import (
    answer_text,
    completion_text,
    exact_answer_reward,
    length_reward,
    pattern_reward,
)


def chat(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text}]


def scores(reward: Any, texts: list[Any], **columns: Any) -> list[float | None]:
    ids = columns.pop("completion_ids", [[1]] * len(texts))
    given = {"prompts": texts, "trainer_state": None, **columns}
    found: list[float | None] = reward(completions=texts, completion_ids=ids, **given)
    return found


@pytest.mark.parametrize(
    ("completion", "text"),
    [
        ("plain", "plain"),
        (chat("one"), "one"),
        ([*chat("first"), {"role": "tool", "content": "x"}, *chat("last")], "last"),
        ([], ""),
        ([{"role": "assistant", "tool_calls": []}], ""),
        ([{"role": "assistant", "content": None}], ""),
        (chat(""), ""),
    ],
)
def test_the_text_of_a_completion(completion: Any, text: str) -> None:
    assert completion_text(completion) == text


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("7", "7"),
        ("<think>6?</think>\n\n7\n", "7"),
        ("6?</think>7", "7"),
        ("<think>6?</think>7<think>8?", "7"),
        ("<think>6?", ""),
        ("", ""),
    ],
)
def test_the_answer_is_what_follows_the_thoughts(text: str, answer: str) -> None:
    assert answer_text(text) == answer
    assert answer_text(chat(text)) == answer


EXACT = {"extract": None}


def test_exact_answers_ignore_space_around() -> None:
    reward = exact_answer_reward(EXACT)
    texts = ["42", " 42\n", "4 2", "42.", "", chat("42")]
    assert scores(reward, texts, answer=["42"] * 6) == [1, 1, 0, 0, 0, 1]
    assert reward.__name__ == "exact_answer"


def test_answers_may_be_numbers_or_absent() -> None:
    found = scores(exact_answer_reward(EXACT), ["7", "7.5", "x"], answer=[7, 7.5, None])
    assert found == [1, 1, None]


@pytest.mark.parametrize(
    ("extract", "text", "score"),
    [
        (r"<answer>(.*?)</answer>", "<answer>1</answer> no, <answer> 7 </answer>", 1),
        (r"<answer>(.*?)</answer>", "<answer>\n7\n</answer>", 1),
        (r"<answer>(.*?)</answer>", "7", 0),
        (r"\d+", "3 plus 4 is 7", 1),
        (r"#### (\d+)|= (\d+)", "= 7", 0),  # the first group is the one that counts
        (r"#### (\d+)", "#### 77", 0),
    ],
)
def test_answers_are_found_in_the_text(extract: str, text: str, score: int) -> None:
    reward = exact_answer_reward({"extract": extract})
    assert scores(reward, [text], answer=["7"]) == [score]


def test_an_empty_answer_is_not_found_where_nothing_is() -> None:
    """Text without the extract has no answer; it only equals an empty one."""
    reward = exact_answer_reward({"extract": r"#(\d+)"})
    assert scores(reward, ["none"], answer=["none"]) == [0]


def test_exact_answer_names_the_column_it_misses() -> None:
    with pytest.raises(UsageError, match="no column 'answer'") as refused:
        scores(exact_answer_reward(EXACT), ["1"])
    assert "data.columns.answer" in refused.value.remedy


@pytest.mark.parametrize(
    ("full", "text", "score"),
    [
        (False, "so <a>\n1</a> it is", 1),
        (False, "<a>1", 0),
        (True, "<a>1</a>", 1),
        (True, "so <a>1</a>", 0),
    ],
)
def test_patterns(full: bool, text: str, score: int) -> None:
    reward = pattern_reward({"pattern": "<a>.*</a>", "full": full})
    assert scores(reward, [text, chat(text)]) == [score, score]
    assert reward.__name__ == "pattern"


def test_length_counts_tokens() -> None:
    reward = length_reward({"target": 4, "tolerance": 4})
    ids = [[1] * n for n in (0, 1, 4, 5, 6, 7, 8, 20)]
    found = scores(reward, ["x"] * 8, completion_ids=ids)
    assert found == [1, 1, 1, 0.75, 0.5, 0.25, 0, 0]
    assert reward.__name__ == "length"
