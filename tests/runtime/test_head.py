"""Logits that TRL's fused head gets wrong do not reach the field."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from carl_runtime_min.capture import CapturedScores
from carl_runtime_min.errors import CarlError
from carl_runtime_min.grpo import (
    CoherenceReward,
    CoherentPolicy,
    ReusedScores,
    SampledPolicy,
)
from carl_runtime_min.run import read_json
from tests import tiny, trainers
from tests.scripts import GROUPS, SMALL, here, render

WIDTH, UNUSED = 320, slice(300, 320)  # rows of the head without a token
STEPS = {"max_steps": 3}
WINDOW = {"steps_per_generation": 2, "gradient_accumulation_steps": 1}
NEVER = -100.0  # a logit of what is not drawn


def biased(value: float) -> Any:
    """A model whose head adds `value` to the logits of what is no token."""
    model = tiny.model()
    weight = model.lm_head.weight.detach()
    model.lm_head = torch.nn.Linear(*reversed(weight.shape))
    with torch.no_grad():
        model.lm_head.weight.copy_(weight)
        model.lm_head.bias.zero_()[UNUSED] = value
    return model


def far(offset: float) -> Any:
    """A model whose logits are always the same, and exact in float32."""
    model = biased(0.0)
    torch.manual_seed(1)
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.lm_head.bias.copy_(torch.randn(WIDTH).mul(128).round() / 64 + offset)
    return model


class Kept(CoherenceReward):
    """R_CARL, keeping the field of each completion and what the model says of it."""

    def __init__(self, model: Any) -> None:
        super().__init__(WIDTH, trainers.WEIGHTS)
        self.model = model
        self.rows: list[tuple[torch.Tensor, torch.Tensor]] = []

    def __call__(self, completion_ids: list[Any], **given: Any) -> list[float | None]:
        words = tiny.tokenizer()
        for i, tokens in enumerate(completion_ids):
            asked = words.apply_chat_template(
                given["prompts"][i], add_generation_prompt=True
            )
            ids = torch.tensor([asked["input_ids"] + tokens])
            with torch.no_grad():
                logits = self.model(ids).logits[0, -len(tokens) - 1 : -1]
            found = torch.stack([given["token_logps"][i], given["token_entropies"][i]])
            self.rows.append((found, exact(logits, ids[0, -len(tokens) :])))
        return super().__call__(completion_ids, **given)


class Silent:
    """Has no opinion, so that the task alone trains."""

    __name__ = "carl"

    def __call__(self, completion_ids: list[Any], **_: Any) -> list[float]:
        return [0.0] * len(completion_ids)


def exact(
    logits: torch.Tensor, ids: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """(log p, H) of tokens by the whole softmax in float64, 0 log 0 being 0."""
    log_p = (logits.double() / temperature).log_softmax(-1)
    entropy = -torch.special.xlogy(log_p.exp(), log_p.exp()).sum(-1)
    return torch.stack([log_p.gather(-1, ids[..., None]).squeeze(-1), entropy])


def same(found: torch.Tensor, truth: torch.Tensor) -> bool:
    return bool((found - truth).abs().max() <= 1e-5 * math.log(WIDTH))


@pytest.mark.parametrize("method", ["GRPO", "RLOO"])
@pytest.mark.parametrize(
    ("model", "sound"),
    [
        (biased(NEVER), True),
        (biased(-math.inf), False),
        (far(0.0), True),
        (far(1e4), False),
    ],
)
def test_plain_logits_are_right_where_the_fused_head_is_not(
    tmp_path: Path, model: Any, sound: bool, method: str
) -> None:
    trainer = trainers.grpo(
        tmp_path, model=copy.deepcopy(model).eval(), method=method, temperature=0.7
    )
    ids, keep = torch.randint(20, 250, (8, 30)), 12
    whole = torch.ones_like(ids)
    with torch.no_grad():
        logits = trainer.model(ids).logits[:, -keep - 1 : -1]
        score = trainer._get_per_token_logps_and_entropies
        alone = score(trainer.model, ids, whole, keep, compute_entropy=True)
        ours = trainer.head_scores(ids, whole, keep)
    truth = exact(logits, ids[:, -keep:], 0.7)
    assert same(torch.stack(alone[:2]), truth) is sound
    assert same(ours, truth)
    assert trainer.plain_head is not sound


@pytest.mark.parametrize(
    ("mixin", "given", "source"),
    [
        (CoherentPolicy, {}, "plain logits"),
        (ReusedScores, WINDOW, "plain logits"),
        (ReusedScores, {"method": "RLOO"}, "plain logits"),
        (CapturedScores, {}, "generation"),
    ],
)
@pytest.mark.parametrize(
    ("make", "value", "rate"), [(biased, -math.inf, 1e-2), (far, 1e4, 0.0)]
)
def test_the_field_of_such_a_model_is_right(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    mixin: type,
    given: dict[str, Any],
    source: str,
    make: Any,
    value: float,
    rate: float,
) -> None:
    kept, given = Kept(make(value)), {**given, "max_steps": 3, "learning_rate": rate}
    trainer = trainers.grpo(tmp_path, mixin, model=kept.model, carl=kept, **given)
    trainer.train()
    assert len(kept.rows) >= 16
    assert all(same(found, truth) for found, truth in kept.rows)
    assert all(map(math.isfinite, trainers.logged(trainer, "loss")))
    assert not any(trainers.logged(trainer, "rewards/unscored"))
    field = read_json(tmp_path / "run.json")["field"]
    assert field["source"] == source
    assert field["difference"] < 1e-6
    assert capsys.readouterr().out.count("TRL's fused head is off by ") == 1


@pytest.mark.parametrize(
    ("mixin", "given"), [(CoherentPolicy, {}), (ReusedScores, WINDOW)]
)
def test_a_logit_that_is_minus_infinity_later_on_is_no_harm(
    tmp_path: Path, mixin: type, given: dict[str, Any]
) -> None:
    """The head is right in the first batch; the others cost a pass more."""

    class Falls(Kept):
        def __call__(self, completion_ids: list[Any], **given: Any) -> Any:
            rewards = super().__call__(completion_ids, **given)
            with torch.no_grad():
                self.model.lm_head.bias[UNUSED] = -math.inf
            return rewards

    kept = Falls(biased(NEVER))
    trainer = trainers.grpo(
        tmp_path, mixin, model=kept.model, carl=kept, max_steps=4, **given
    )
    trainer.train()
    assert trainer.plain_head is False
    assert len(kept.rows) >= 16
    assert all(same(found, truth) for found, truth in kept.rows)


def test_half_precision_is_no_fault(tmp_path: Path) -> None:
    trainer = trainers.grpo(tmp_path, SampledPolicy, bf16=True, samples_every=1)
    trainer.train()
    assert trainer.plain_head is False


def test_a_head_that_scales_otherwise_is_found_in_half_precision_too(
    tmp_path: Path,
) -> None:
    trainer = trainers.grpo(tmp_path, SampledPolicy, bf16=True, samples_every=1)
    plain = trainer.model.forward

    def doubled(*args: Any, **given: Any) -> Any:
        found = plain(*args, **given)
        if not given.get("fused_lm_head"):
            found.logits *= 1.1
        return found

    trainer.model.forward = doubled
    trainer.train()
    assert trainer.plain_head is True


def test_the_choice_outlives_a_stop(tmp_path: Path) -> None:
    """What a later batch would say does not matter, or a resume would not be exact."""
    model = biased(-math.inf)
    trainer = trainers.grpo(tmp_path, model=model, save_steps=1)
    trainer.train()
    again = trainers.grpo(tmp_path, model=biased(NEVER), max_steps=3)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoints/grpo/checkpoint-2"))
    assert again.plain_head is True


def test_what_trl_trains_on_is_left_alone(tmp_path: Path) -> None:
    """Of -inf only its entropies are NaN, which the loss does not hold."""
    found = []
    for mixin in (None, ReusedScores):
        model = biased(-math.inf)
        silent = {"carl": Silent()} if mixin else {}
        given: dict[str, Any] = {"model": model, **WINDOW, **silent}
        trainers.grpo(tmp_path / str(mixin is None), mixin, **given).train()
        found.append(model)
    assert trainers.same_weights(*found)


def test_a_loss_that_holds_entropies_stops_the_run(tmp_path: Path) -> None:
    trainer = trainers.grpo(tmp_path, model=biased(-math.inf), entropy_coef=0.01)
    with pytest.raises(CarlError, match="the loss is not finite in step 1"):
        trainer.train()


def test_a_script_trains_a_model_that_rules_tokens_out(tmp_path: Path) -> None:
    from transformers import PhiConfig, PhiForCausalLM  # its head has a bias

    torch.manual_seed(0)
    shape = {name: tiny.SHAPE[name] for name in tiny.SHAPE if name != "head_dim"}
    words = tiny.tokenizer()
    special = {"eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    model = PhiForCausalLM(PhiConfig(vocab_size=WIDTH, **special, **shape))
    with torch.no_grad():
        model.lm_head.bias[UNUSED] = -math.inf
    model.save_pretrained(tmp_path / "model")
    words.save_pretrained(tmp_path / "model")
    spec = {
        "name": "x",
        "method": "grpo",
        "model": str(tmp_path / "model"),
        "data": str(tiny.write_jsonl(tmp_path / "rows.jsonl", tiny.questions(16))),
        "lora": False,
        "rewards": [{"name": "pattern", "pattern": "[a-m]"}],
        "carl": {"cascade": "fixed", "carl_start": 0, "field": "pass"},
        "grpo": {**SMALL, **GROUPS, "max_steps": 2},
    }
    assert here(render(tmp_path, spec)) == 0
    (path,) = tmp_path.glob("**/run.json")
    assert read_json(path)["field"]["source"] == "plain logits"
    lines = (path.parent / "samples.jsonl").read_text().splitlines()
    phi = [x for line in lines for x in json.loads(line)["phi"]]
    assert phi
    assert all(0 < x < 1 for x in phi)


def test_a_cap_that_trl_does_not_know_is_found(tmp_path: Path) -> None:
    """RecurrentGemma's `logits_soft_cap`: its fused head has another distribution."""
    from transformers import RecurrentGemmaConfig, RecurrentGemmaForCausalLM

    words = tiny.tokenizer()
    torch.manual_seed(0)
    config = RecurrentGemmaConfig(
        vocab_size=WIDTH,
        hidden_size=32,
        lru_width=32,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=2,
        head_dim=16,
        logits_soft_cap=1.0,
        w_init_variance_scale=1.0,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        bos_token_id=None,
    )
    model = RecurrentGemmaForCausalLM(config)
    trainer = trainers.grpo(tmp_path, SampledPolicy, model=model)
    trainer.train()
    assert trainer.plain_head is True
