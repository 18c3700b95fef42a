"""What a run shows before it costs anything: a row as TRL will see it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from carl_runtime_min.dryrun import show_row
from tests import tiny, trainers

STRICT = "{% if messages[0]['role'] == 'system' %}S{% endif %}" + tiny.CHAT_TEMPLATE
NO_END = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
QUESTION = {"role": "user", "content": "1+1?"}
ANSWER = {"role": "assistant", "content": "it is 2"}
SPLIT = {"prompt": [QUESTION], "completion": [ANSWER]}
WHOLE = {"messages": [QUESTION, ANSWER]}


def shown(tokenizer: Any, row: dict[str, Any], capsys: Any) -> str:
    show_row(tokenizer, row)
    out: str = capsys.readouterr().out
    return out


def trained(tokenizer: Any, row: dict[str, Any], folder: Path) -> tuple[str, str, int]:
    """(context, what is learned, tokens) of the row as TRL prepares it."""
    args = trainers.arguments(trainers.run_dir(folder, "sft"), max_length=None)
    made = SFTTrainer(
        tiny.model(),
        args=SFTConfig(**args),
        train_dataset=Dataset.from_list([row]),
        processing_class=tokenizer,
    )
    batch = made.data_collator([made.train_dataset[0]])
    ids, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
    own = [i for i, label in enumerate(labels) if label != -100]
    assert own == list(range(own[0], len(ids)))
    return tokenizer.decode(ids[: own[0]]), tokenizer.decode(ids[own[0] :]), len(ids)


@pytest.mark.parametrize(
    ("template", "row"),
    [
        (tiny.CHAT_TEMPLATE, SPLIT),
        (tiny.CHAT_TEMPLATE, WHOLE),
        (STRICT, WHOLE),
        (STRICT, SPLIT),
        (NO_END, SPLIT),
        (None, {"prompt": "1+1? ", "completion": "it is 2"}),
    ],
)
def test_the_row_is_the_one_that_trl_trains_on(
    tmp_path: Path, capsys: Any, template: str | None, row: dict[str, Any]
) -> None:
    words = tiny.tokenizer(template)
    context, learned, count = trained(words, row, tmp_path)
    capsys.readouterr()
    out = shown(words, row, capsys)
    assert f"{context}⟦{learned}⟧" in out
    assert f"{count} tokens" in out
    assert ("warning" in out) == (template == NO_END)


def test_an_end_of_turn_that_is_no_end_of_sequence_is_warned_of(capsys: Any) -> None:
    for row in (SPLIT, WHOLE):
        out = shown(tiny.tokenizer(NO_END), row, capsys)
        assert f"warning: no turn ends with '{tiny.END}'" in out
        assert "chat template" in out


@pytest.mark.parametrize("template", [tiny.CHAT_TEMPLATE, NO_END, STRICT, None])
def test_a_prompt_is_shown_as_generation_starts_from_it(
    capsys: Any, template: str | None
) -> None:
    words = tiny.tokenizer(template)
    if template is None:
        assert shown(words, {"prompt": "1+1?", "answer": "2"}, capsys).endswith(
            "\n1+1?\n"
        )
        return
    out = shown(words, {"prompt": [QUESTION], "answer": "2"}, capsys)
    text = words.apply_chat_template(
        [QUESTION], add_generation_prompt=True, tokenize=False
    )
    assert text in out
    assert "⟦" not in out
    assert "warning" not in out
