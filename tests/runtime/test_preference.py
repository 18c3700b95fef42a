"""The field of chosen and rejected answers, and training that does not notice it."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

from carl_runtime_min.fit import Observer
from carl_runtime_min.preference import ORPOPhi, PreferencePhi
from tests import reference, tiny, trainers
from tests.trainers import logged

WIDTH = 320  # rows of the output head; the tokenizer has 300 tokens
KINDS = ("chosen", "rejected")
WORDS = [  # of different lengths, on both sides
    ("1+1?", "the answer is 2", "no"),
    ("30+4?", "34", "what is the question, user?"),
    ("what is 7?", "it is 7", "8"),
    ("0+900?", "plus 900", "this minus that"),
]
MIXINS = {"DPO": PreferencePhi, "KTO": PreferencePhi, "ORPO": ORPOPhi}


@pytest.fixture(autouse=True)
def silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")  # ORPO is experimental


def talk(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def pairs() -> list[dict[str, Any]]:
    return [
        {"prompt": talk("user", prompt)}
        | {"chosen": talk("assistant", good), "rejected": talk("assistant", bad)}
        for prompt, good, bad in WORDS
    ]


def judged() -> list[dict[str, Any]]:
    return [
        {"prompt": row["prompt"], "completion": row[kind], "label": kind == "chosen"}
        for row in pairs()
        for kind in KINDS
    ]


def field_of_answer(
    model: Any, prompt: Any, answer: Any, method: str, longest: int
) -> list[float]:
    """Phi of each token of an answer, by a forward pass of this one conversation."""
    words = tiny.tokenizer()
    start = words.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"]
    whole = words.apply_chat_template(prompt + answer)["input_ids"]
    whole += [words.eos_token_id] * (method == "ORPO")  # it ends every answer so
    with torch.no_grad():
        logits = model(torch.tensor([whole[:longest]])).logits[0].double()
    rows = logits[len(start) - 1 : -1].tolist()
    return [reference.phi_of(reference.field_of_row(z, 0)[0], WIDTH) for z in rows]


class Expected(Observer):
    """Measures the model before each step, batch by batch."""

    def __init__(
        self, method: str, batches: list[list[dict[str, Any]]], longest: int = 128
    ) -> None:
        self.method, self.batches, self.longest = method, batches, longest
        self.seen: dict[str, list[float]] = {kind: [] for kind in KINDS}

    def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        for kind in KINDS:
            means = []
            for batch in self.batches:
                tokens: list[float] = []
                for row in batch:
                    tokens += field_of_answer(
                        given["model"],
                        row["prompt"],
                        row[kind],
                        self.method,
                        self.longest,
                    )
                means.append(fmean(tokens))
            self.seen[kind].append(fmean(means))


def trainer_of(method: str, folder: Path, mixin: type | None, **given: Any) -> Any:
    rows = judged() if method == "KTO" else pairs()
    return trainers.preference(folder, method, rows, mixin, max_steps=3, **given)


HALVES = {"gradient_accumulation_steps": 2, "train_sampling_strategy": "sequential"}


@pytest.mark.parametrize(
    ("method", "make", "given"),
    [
        ("DPO", tiny.model, {}),
        ("DPO", tiny.model, {"precompute_ref_log_probs": True}),
        ("DPO", tiny.model, {"gradient_checkpointing": True}),
        ("DPO", tiny.adapted, {}),
        ("DPO", tiny.model, HALVES),
        ("DPO", tiny.model, {"max_length": 20}),
        ("KTO", tiny.model, {}),
        ("KTO", tiny.model, {"loss_type": "apo_zero_unpaired"}),
        ("KTO", tiny.adapted, {}),
        ("KTO", tiny.model, HALVES),
        ("ORPO", tiny.model, {}),
        ("ORPO", tiny.adapted, {}),
        ("ORPO", tiny.model, HALVES),
        ("ORPO", tiny.model, {"max_length": 20}),
    ],
)
def test_the_field_is_the_policys_over_exactly_the_tokens_of_the_answers(
    tmp_path: Path, method: str, make: Any, given: dict[str, Any]
) -> None:
    rows, batches = pairs(), [pairs()]
    if given is HALVES:
        batches = [rows[:2], rows[2:]]
        size = 4 if method == "KTO" else 2
        given = {**given, "per_device_train_batch_size": size}
    trainer = trainer_of(method, tmp_path, MIXINS[method], model=make(), **given)
    expected = Expected(method, batches, given.get("max_length", 128))
    trainer.add_callback(expected)
    trainer.train()
    for kind in KINDS:
        seen = expected.seen[kind]
        assert logged(trainer, f"phi/{kind}") == pytest.approx(seen, abs=2e-5)
        assert len(seen) == 3
        assert max(seen) - min(seen) > 1e-4, "the reference model never changes"


@pytest.mark.parametrize(
    ("method", "make", "given"),
    [
        ("DPO", tiny.model, {}),
        ("DPO", tiny.adapted, {}),
        ("DPO", tiny.model, {"loss_type": ["sigmoid", "sft"], "bf16": True}),
        ("KTO", tiny.model, {}),
        ("KTO", tiny.adapted, {}),
        ("ORPO", tiny.model, {}),
        ("ORPO", tiny.model, {"gradient_checkpointing": True}),
    ],
)
def test_training_is_untouched(
    tmp_path: Path, method: str, make: Any, given: dict[str, Any]
) -> None:
    found = []
    for mixin in (None, MIXINS[method]):
        folder = tmp_path / str(mixin is None)
        trainer = trainer_of(method, folder, mixin, model=make(), **given)
        trainer.train()
        found.append(trainer)
    plain, observed = found
    assert trainers.same_weights(plain.model, observed.model)
    assert not trainers.same_weights(plain.model, make())
    assert logged(plain, "loss") == logged(observed, "loss")
    names = {name for row in observed.state.log_history for name in row}
    ours = names - {name for row in plain.state.log_history for name in row}
    assert ours == {"phi/chosen", "phi/rejected"}


@pytest.mark.parametrize(("label", "kind"), [(True, "chosen"), (False, "rejected")])
def test_a_batch_with_answers_of_one_kind_has_no_field_of_the_other(
    tmp_path: Path, label: bool, kind: str
) -> None:
    rows = [row for row in judged() if row["label"] == label]
    trainer = trainers.preference(tmp_path, "KTO", rows, PreferencePhi)
    expected = Expected("KTO", [pairs()])
    trainer.add_callback(expected)
    trainer.train()
    seen = logged(trainer, f"phi/{kind}")
    assert seen == pytest.approx(expected.seen[kind], abs=2e-5)
    [other] = {*KINDS} - {kind}
    assert logged(trainer, f"phi/{other}") == []
