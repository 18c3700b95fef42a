"""What reward functions see of a generation, and what becomes of their rewards."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from trl import GRPOTrainer

from carl_runtime_min.capture import CapturedScores
from carl_runtime_min.grpo import (
    CoherenceReward,
    CoherentPolicy,
    ReusedScores,
    SampledPolicy,
)
from tests import reference, tiny, trainers
from tests.trainers import logged, lower, plain_text

WIDTH = 320  # rows of the output head; the tokenizer has 300 tokens
STEPS = {"max_steps": 3}
WINDOW = {**STEPS, "steps_per_generation": 2, "gradient_accumulation_steps": 1}
TWICE = {**STEPS, "num_iterations": 2}
RLOO = {"method": "RLOO"}


def brute_force(
    model: Any, prompt: Any, tokens: list[int], temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """(log p, H) of each token: the full softmax over the logits of a plain forward."""
    words = tiny.tokenizer()
    start = words.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"]
    training = model.training
    with torch.no_grad():
        logits = model.eval()(torch.tensor([start + tokens])).logits[0].double()
    model.train(training)
    log_p = (logits[len(start) - 1 : -1] / temperature).log_softmax(-1)  # [T, V]
    chosen = log_p[range(len(tokens)), tokens]
    return chosen, -(log_p.exp() * log_p).sum(-1)


class Witness(CoherenceReward):
    """R_CARL, noting what it was given and what the model says at that moment."""

    def __init__(self, model: Any, temperature: float = 1.0) -> None:
        super().__init__(WIDTH, trainers.WEIGHTS)
        self.model, self.temperature = model, temperature
        self.rows: list[dict[str, Any]] = []

    def __call__(self, completion_ids: list[Any], **given: Any) -> list[float | None]:
        rewards = super().__call__(completion_ids, **given)
        if "token_logps" in given:
            for i, tokens in enumerate(completion_ids):
                exact = brute_force(
                    self.model, given["prompts"][i], tokens, self.temperature
                )
                row = {name: given[name][i] for name in given if name[:6] == "token_"}
                self.rows.append(row)
                row["prompt"] = len(given["prompts"][i][-1]["content"])
                row |= {"ids": tokens, "exact": exact, "reward": rewards[i]}
        return rewards


def close(row: dict[str, Any]) -> bool:
    found = torch.stack([row["token_logps"], row["token_entropies"]])
    return torch.allclose(found.double(), torch.stack(row["exact"]), atol=2e-5)


@pytest.mark.parametrize(
    ("mixin", "make", "given"),
    [
        (CoherentPolicy, tiny.model, {"temperature": 0.7}),
        (CoherentPolicy, tiny.model, {"temperature": 0.7, "top_k": 5, "top_p": 0.9}),
        (CoherentPolicy, tiny.model, {"repetition_penalty": 1.3, "min_p": 0.05}),
        (CoherentPolicy, tiny.model, {"gradient_checkpointing": True}),
        (CoherentPolicy, tiny.model, WINDOW),
        (CoherentPolicy, tiny.adapted, {**STEPS}),
        (CoherentPolicy, tiny.adapted, {"beta": 0.1, **STEPS}),
        (CoherentPolicy, tiny.model, {"gradient_accumulation_steps": 2}),
        (ReusedScores, tiny.model, {"temperature": 0.7, **WINDOW}),
        (ReusedScores, tiny.model, {"gradient_checkpointing": True, **TWICE}),
        (ReusedScores, tiny.model, {"beta": 0.1, **TWICE}),
        (ReusedScores, tiny.adapted, {"beta": 0.1, **WINDOW}),
        (ReusedScores, tiny.model, {}),  # TRL makes no pass here
        (ReusedScores, tiny.model, {**RLOO, **STEPS}),
        (ReusedScores, tiny.model, {**RLOO, "beta": 0.1, **TWICE}),
        (ReusedScores, tiny.adapted, {**RLOO, "beta": 0.1, **STEPS}),
        (CoherentPolicy, tiny.adapted, {**RLOO, "beta": 0.1, **STEPS}),
        (CapturedScores, tiny.model, {"temperature": 0.7, "top_k": 5, "top_p": 0.9}),
        (CapturedScores, tiny.model, {"repetition_penalty": 1.3, "min_p": 0.05}),
        (CapturedScores, tiny.model, {"gradient_checkpointing": True, **WINDOW}),
        (CapturedScores, tiny.adapted, {"beta": 0.1, **STEPS}),
        (
            ReusedScores,
            tiny.model,
            {**RLOO, "temperature": 0.7, "gradient_accumulation_steps": 2},
        ),
    ],
)
def test_rewards_see_the_full_softmax_of_exactly_the_sampled_tokens(
    tmp_path: Path, mixin: type, make: Any, given: dict[str, Any]
) -> None:
    model = make()
    witness = Witness(model, given.get("temperature", 1.0))
    trainer = trainers.grpo(tmp_path, mixin, model=model, carl=witness, **given)
    trainer.train()
    generations = 2 if mixin is ReusedScores or "steps_per_generation" in given else 1
    assert len(witness.rows) >= 8 * generations
    ends = set(model.generation_config.eos_token_id)
    assert any(row["ids"][-1] in ends for row in witness.rows), "no sampled EOS"
    assert len({len(row["ids"]) for row in witness.rows}) > 1
    assert len({row["prompt"] for row in witness.rows[:8]}) > 1, "equal prompts"
    for row in witness.rows:
        assert len(row["token_logps"]) == len(row["ids"])
        assert close(row)


def test_the_reference_pass_of_adapters_is_another_distribution(tmp_path: Path) -> None:
    """What gives the cases with beta > 0 above their teeth."""
    model, prompt = tiny.adapted(), [{"role": "user", "content": "1+1?"}]
    with_adapter = brute_force(model, prompt, [50, 51, 52])
    with model.disable_adapter():
        without = brute_force(model, prompt, [50, 51, 52])
    assert (with_adapter[1] - without[1]).abs().max() > 0.05


@pytest.mark.parametrize("mixin", [CoherentPolicy, ReusedScores, CapturedScores])
def test_the_reward_is_that_of_the_field(tmp_path: Path, mixin: type) -> None:
    model = tiny.model()
    witness = Witness(model)
    trainers.grpo(tmp_path, mixin, model=model, carl=witness, **WINDOW).train()
    for row in witness.rows:
        log_probs, entropy = (values.tolist() for values in row["exact"])
        phi = [reference.phi_of(h, WIDTH) for h in entropy]
        assert row["reward"] == pytest.approx(
            reference.reward(phi, log_probs), abs=1e-3
        )


@pytest.mark.parametrize(
    ("mixin", "given"),
    [(CoherentPolicy, {}), (ReusedScores, WINDOW), (ReusedScores, RLOO)],
)
def test_dropout_is_off_while_the_field_is_measured(
    tmp_path: Path, mixin: type, given: dict[str, Any]
) -> None:
    model = tiny.model(attention_dropout=0.5)
    witness = Witness(model)
    trainer = trainers.grpo(tmp_path, mixin, model=model, carl=witness, **given)
    trainer.train()
    assert all(map(close, witness.rows))
    trainer.model.train()
    first, again = trainer.score(), trainer.score()
    assert trainer.model.training
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a["token_entropies"], b["token_entropies"])


class Tools(GRPOTrainer):
    """Stands for a tool that answered inside every completion."""

    def _generate(self, prompts: list[Any]) -> Any:
        out = list(super()._generate(prompts))
        out[1] = [(ids * 12)[:12] for ids in out[1]]
        out[2] = [[1, 1, 1, 0, 0, 1, 1, 1, 1, 0, 1, 1] for _ in out[1]]
        out[2][1] = [1] * 12
        out[2][2] = [0, 0] + [1] * 10
        return tuple(out)


@pytest.mark.parametrize("mixin", [CoherentPolicy, ReusedScores])
def test_tokens_of_tools_are_context_and_no_part_of_the_field(
    tmp_path: Path, mixin: type
) -> None:
    model = tiny.model()
    witness = Witness(model)
    extra = WINDOW if mixin is ReusedScores else {}
    trainer = trainers.grpo(
        tmp_path, mixin, model=model, carl=witness, base=Tools, **extra
    )
    trainer.train()
    masks = [[1, 1, 1, 0, 0, 1, 1, 1, 1, 0, 1, 1], [1] * 12, [0, 0] + [1] * 10]
    seams = [{3, 7}, set(), set()]  # in the compacted completion
    for row, mask, junctions in zip(witness.rows, masks, seams, strict=False):
        own = torch.tensor(mask).bool()
        row["exact"] = [values[own] for values in row["exact"]]
        assert close(row)
        found = set(row["token_junctions"].nonzero().flatten().tolist()) - {0}
        assert found == junctions
        log_probs, entropy = (values.tolist() for values in row["exact"])
        phi = [reference.phi_of(h, WIDTH) for h in entropy]
        places = [t in junctions for t in range(len(phi))]
        expected = reference.reward(phi, log_probs, places)
        assert row["reward"] == pytest.approx(expected, abs=1e-3)


class Silent(GRPOTrainer):
    """Some completions, or all, hold no token at all."""

    emptied = slice(1, 3)

    def _generate(self, prompts: list[Any]) -> Any:
        out = list(super()._generate(prompts))
        out[1] = list(out[1])
        out[1][self.emptied] = [[] for _ in out[1][self.emptied]]
        return tuple(out)


@pytest.mark.parametrize("mixin", [CoherentPolicy, ReusedScores])
def test_an_empty_completion_scores_zero_and_harms_no_other(
    tmp_path: Path, mixin: type
) -> None:
    model = tiny.model()
    witness = Witness(model)
    extra = WINDOW if mixin is ReusedScores else {}
    trainers.grpo(
        tmp_path, mixin, model=model, carl=witness, base=Silent, **extra
    ).train()
    assert [row["reward"] for row in witness.rows[1:3]] == [0.0, 0.0]
    assert all(len(row["token_logps"]) == len(row["ids"]) for row in witness.rows)
    assert all(close(row) for row in witness.rows if row["ids"])


def test_a_batch_of_nothing_but_empty_completions_has_a_field(tmp_path: Path) -> None:
    trainer = trainers.grpo(tmp_path)
    trainer._generate([[{"role": "user", "content": "1+1?"}]] * 4)
    trainer.completion_ids = [[]] * 4
    fields = trainer.score()
    assert [len(field["token_logps"]) for field in fields] == [0] * 4
    columns = {name: [field[name] for field in fields] for name in fields[0]}
    reward = CoherenceReward(WIDTH, trainers.WEIGHTS)
    found = reward([[]] * 4, log_metric=lambda *_: None, **columns)
    assert found == [0.0] * 4


class Advantages(GRPOTrainer):
    """Notes the advantages that the loss gets, per generation."""

    def _compute_loss(self, model: Any, inputs: Any) -> Any:
        self.given = [*getattr(self, "given", []), inputs["advantages"].tolist()]
        return super()._compute_loss(model, inputs)


class Noted:
    """Outermost mixin: notes the advantages in the order of the completions."""

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        self.noted: list[list[float]]
        batch = super()._generate_and_score_completions(inputs)  # type: ignore
        self.noted = [*getattr(self, "noted", []), batch["advantages"].tolist()]
        return batch


def noting(mixin: type) -> type:
    return type("Noting", (Noted, mixin), {})


def fixed(values: list[float | None]) -> Any:
    def table(completions: list[Any], **_: Any) -> list[float | None]:
        return (values * len(completions))[: len(completions)]

    return table


STAGE_A = {"carl_start": 1000}
UNSCALED = {"scale_rewards": "none", "max_steps": 1}


@pytest.mark.parametrize("mixin", [SampledPolicy, CoherentPolicy])
def test_rows_without_a_reward_get_no_advantage_and_shift_no_other(
    tmp_path: Path, mixin: type
) -> None:
    values = [1.0, None, math.inf, 0.0, 1.0, 1.0, -math.inf, 0.4]
    trainer = trainers.grpo(
        tmp_path, noting(mixin), tasks=(fixed(values),), cascade=STAGE_A, **UNSCALED
    )
    trainer.non_finite = "skip"
    trainer.train()
    expected = [0.5, 0, 0, -0.5, 0.2, 0.2, 0, -0.4]
    assert trainer.noted[0] == pytest.approx(expected, abs=1e-6)
    assert logged(trainer, "rewards/non_finite") == [2]
    assert math.isfinite(logged(trainer, "reward")[0])


def test_an_infinite_reward_leaves_the_other_functions_their_say(
    tmp_path: Path,
) -> None:
    trainer = trainers.grpo(
        tmp_path,
        noting(CoherentPolicy),
        tasks=(fixed([math.inf, 1.0]), fixed([0.0, 0.5])),
        task_weights=(1.0, 2.0),
        cascade=STAGE_A,
        **UNSCALED,
    )
    trainer.non_finite = "skip"
    trainer.train()
    assert trainer.noted[0] == pytest.approx([-1.0, 1.0] * 4, abs=1e-6)
    assert logged(trainer, "rewards/non_finite") == [4]


@pytest.mark.parametrize("aggregation", ["sum_then_normalize", "normalize_then_sum"])
def test_in_stage_b_a_row_needs_a_task_reward_and_carl(
    tmp_path: Path, aggregation: str
) -> None:
    """The others are normalised as if it were not there."""

    class Gaps(CoherenceReward):
        def __call__(self, completion_ids: list[Any], **given: Any) -> Any:
            rewards = super().__call__(completion_ids, **given)
            self.seen = [*rewards]
            return [None, *rewards[1:]]

    carl = Gaps(WIDTH, trainers.WEIGHTS)
    tasks = [0.9, None, 0.1, 0.5, 0.3, 0.0, 1.0, 0.2]
    trainer = trainers.grpo(
        tmp_path,
        noting(CoherentPolicy),
        tasks=(fixed(tasks),),
        carl=carl,
        multi_objective_aggregation=aggregation,
        **UNSCALED,
    )
    trainer.train()
    found = trainer.noted[0]
    assert found[:2] == [0.0, 0.0]
    assert logged(trainer, "rewards/unscored") == [2]
    if aggregation == "sum_then_normalize":
        total = [t + 0.5 * c for t, c in zip(tasks[2:], carl.seen[2:], strict=True)]
        pair, group = total[:2], total[2:]
        expected = [x - sum(pair) / 2 for x in pair]
        expected += [x - sum(group) / 4 for x in group]
        assert found[2:] == pytest.approx(expected, abs=1e-5)
    else:
        assert sum(found) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("stage", "AB")
@pytest.mark.parametrize("mixin", [CoherentPolicy, ReusedScores])
def test_rloo_compares_each_row_with_the_others_that_have_a_reward(
    tmp_path: Path, mixin: type, stage: str
) -> None:
    """In stage B that is the task's plus the weighted R_CARL, in stage A the task's."""
    witness = Witness(tiny.model())
    trainer = trainers.grpo(
        tmp_path,
        noting(mixin),
        tasks=(fixed([0.9, None, 0.1, 0.5, 0.3, -math.inf, 1.0, 0.2]),),
        task_weights=(2.0,),
        carl=witness,
        cascade=STAGE_A if stage == "A" else {"carl_start": 0, "warmup_steps": 2},
        max_steps=1,
        **RLOO,
    )
    trainer.non_finite = "skip"
    trainer.train()
    assert logged(trainer, "rewards/unscored") == [2]
    assert logged(trainer, "rewards/non_finite") == [1]
    carl = [row["reward"] for row in witness.rows] or [0.0] * 8
    assert len(set(carl)) == (8 if stage == "B" else 1)
    expected = [0.0] * 8
    for rows in ({0: 0.9, 2: 0.1, 3: 0.5}, {4: 0.3, 6: 1.0, 7: 0.2}):
        total = {i: 2.0 * task + 0.25 * carl[i] for i, task in rows.items()}
        for i, own in total.items():
            expected[i] = own - (sum(total.values()) - own) / 2
    assert trainer.noted[0] == pytest.approx(expected, abs=1e-5)


def test_a_field_that_is_not_finite_makes_its_row_unscored(tmp_path: Path) -> None:
    class Broken(CoherentPolicy):
        def batch_field(self) -> Any:
            fields = super().batch_field()
            fields[3]["token_entropies"][0] = math.nan
            return fields

    trainer = trainers.grpo(tmp_path, noting(Broken), **UNSCALED)
    trainer.train()
    assert trainer.noted[0][3] == 0.0
    assert all(trainer.noted[0][:3])
    assert logged(trainer, "rewards/unscored") == [1]


@pytest.mark.parametrize("method", ["GRPO", "RLOO"])
def test_truncated_completions_that_are_masked_are_unscored(
    tmp_path: Path, method: str
) -> None:
    model = tiny.model()
    witness = Witness(model)
    trainer = trainers.grpo(
        tmp_path,
        noting(CoherentPolicy),
        model=model,
        carl=witness,
        mask_truncated_completions=True,
        method=method,
        steps_per_generation=2,
        max_steps=1,
    )
    trainer.train()
    ends = set(model.generation_config.eos_token_id)
    cut = [row["ids"][-1] not in ends for row in witness.rows]
    assert 0 < sum(cut) < len(cut)
    assert logged(trainer, "rewards/unscored") == [sum(cut)]
    found = zip(witness.rows, trainer.noted[0], cut, strict=True)
    for row, advantage, truncated in found:
        assert (row["reward"] is None) == truncated
        assert close(row) != truncated
        assert not (truncated and advantage)


class Counter:
    """Counts the forward passes that score tokens without training on them."""

    passes = 0

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        self.passes += not torch.is_grad_enabled()
        return super()._get_per_token_logps_and_entropies(*args, **kwargs)  # type: ignore


def counted(method: str = "GRPO") -> type:
    return type("Counted", (Counter, getattr(trl, f"{method}Trainer")), {})


@pytest.mark.parametrize(
    ("mixin", "given"),
    [
        (CoherentPolicy, {}),
        (CoherentPolicy, {"multi_objective_aggregation": "normalize_then_sum"}),
        (CoherentPolicy, {"beta": 0.1}),
        (ReusedScores, {"steps_per_generation": 2}),
        (SampledPolicy, {}),
        (ReusedScores, RLOO),
        (ReusedScores, {**RLOO, "beta": 0.1}),
        (SampledPolicy, RLOO),
    ],
)
def test_stage_a_changes_no_bit_and_costs_no_pass(
    tmp_path: Path, mixin: type, given: dict[str, Any]
) -> None:
    base = counted(given.get("method", "GRPO"))
    plain = trainers.grpo(tmp_path / "plain", None, base=base, **STEPS, **given)
    plain.train()
    observed = trainers.grpo(
        tmp_path / "carl",
        mixin,
        base=base,
        cascade=STAGE_A,
        samples_every=2,
        **STEPS,
        **given,
    )
    observed.train()
    assert trainers.same_weights(plain.model, observed.model)
    assert logged(plain, "reward") == logged(observed, "reward")
    path = tmp_path / "carl" / "samples.jsonl"
    recorded = {json.loads(line)["step"] for line in path.read_text().splitlines()}
    compared = 1  # the two heads, at the first sample
    assert observed.passes == plain.passes + len(recorded) + compared


def test_stage_b_takes_one_pass_more_or_none(tmp_path: Path) -> None:
    def passes(mixin: type | None, **given: Any) -> int:
        name = f"{mixin.__name__ if mixin else 'plain'}{'-'.join(given)}"
        base = counted(given.get("method", "GRPO"))
        trainer = trainers.grpo(
            tmp_path / name, mixin, base=base, samples_every=10**9, **STEPS, **given
        )
        trainer.train()
        return int(trainer.passes)

    sampled, compared = 1, 1  # at step 0; the two heads once
    once = sampled + compared
    assert passes(CoherentPolicy) == passes(None) + 3 + once
    window = {"steps_per_generation": 2}
    once += 1  # the comparison with a pass of its own
    assert passes(ReusedScores, **window) == passes(None, **window) + once
    assert passes(ReusedScores, **RLOO) == passes(None, **RLOO) + once


@pytest.mark.parametrize(
    ("method", "given", "reused"),
    [
        ("grpo", {}, False),
        ("grpo", {"gradient_accumulation_steps": 4}, False),
        ("grpo", {"num_iterations": 2, "save_steps": 8}, True),
        ("grpo", {"steps_per_generation": 4, "gradient_accumulation_steps": 2}, True),
        (
            "grpo",
            {
                "steps_per_generation": 4,
                "gradient_accumulation_steps": 2,
                "mask_truncated_completions": True,
            },
            False,
        ),
        ("rloo", {}, True),
        ("grpo", {"vllm": "colocate"}, True),
        (
            "grpo",
            {
                "vllm": "server",
                "trainer": {"vllm_importance_sampling_correction": False},
            },
            False,
        ),
        ("rloo", {"mask_truncated_completions": True}, False),
    ],
)
def test_scripts_reuse_scores_exactly_where_trl_makes_usable_ones(
    method: str, given: dict[str, Any], reused: bool
) -> None:
    from carl_bundle import TrainSpec
    from carl_bundle.recipes import structure
    from carl_bundle.spec.defaults import resolve

    fields = {"model": "org/model", "rewards": [{"name": "exact_answer"}]}
    spec = TrainSpec.model_validate({**fields, "method": method, method: given})
    assert structure(resolve(spec))["reuse_scores"] is reused


RAMP = {"carl_start": 0, "warmup_steps": 4}
STILL = {"learning_rate": 0.0, "max_steps": 5}


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"multi_objective_aggregation": "normalize_then_sum"},
        {
            "multi_objective_aggregation": "normalize_then_sum",
            "scale_rewards": "none",
        },
    ],
)
def test_where_task_rewards_tie_the_advantages_grow_linearly(
    tmp_path: Path, given: dict[str, Any]
) -> None:
    class Spread(CoherenceReward):
        def __call__(self, completion_ids: list[Any], **given: Any) -> Any:
            return fixed([0.0, 0.3, 0.6, 0.9])(completion_ids)

    trainer = trainers.grpo(
        tmp_path,
        noting(CoherentPolicy),
        tasks=(plain_text,),
        carl=Spread(WIDTH, trainers.WEIGHTS),
        cascade=RAMP,
        **STILL,
        **given,
    )
    trainer.train()
    norms = [math.hypot(*advantages) for advantages in trainer.noted]
    final = norms[-1]
    ramp = [norm / final for norm in norms]
    assert ramp == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0], rel=0.003)
    undamped = math.hypot(*list(trainer._logs["advantages"])[-8:])
    assert final == pytest.approx(0.5 * undamped, rel=1e-4)
    assert undamped == pytest.approx(math.sqrt(6), rel=0.1)  # CARL at full size


def test_only_tied_groups_are_damped(tmp_path: Path) -> None:
    tasks = fixed([0.3, 0.3, 0.3, 0.3, 0.1, 0.2, 0.3, 0.4])
    trainer = trainers.grpo(
        tmp_path, noting(CoherentPolicy), tasks=(tasks,), cascade=RAMP, max_steps=1
    )
    trainer.train()
    undamped = list(trainer._logs["advantages"])
    scale = [a / b for a, b in zip(trainer.noted[0], undamped, strict=True)]
    assert scale == pytest.approx([0.25 * 0.5] * 4 + [1.0] * 4, rel=1e-4)


@pytest.mark.parametrize(
    ("aggregation", "tied"),
    [("sum_then_normalize", True), ("normalize_then_sum", False)],
)
def test_rewards_that_cancel_tie_where_their_sum_is_normalised(
    tmp_path: Path, aggregation: str, tied: bool
) -> None:
    trainer = trainers.grpo(
        tmp_path,
        noting(CoherentPolicy),
        tasks=(fixed([0.4, 0.2]), fixed([0.1, 0.2])),
        task_weights=(1.0, 2.0),
        cascade=RAMP,
        multi_objective_aggregation=aggregation,
        max_steps=1,
    )
    trainer.train()
    undamped = list(trainer._logs["advantages"])
    scale = [a / b for a, b in zip(trainer.noted[0], undamped, strict=True)]
    assert scale == pytest.approx([0.125 if tied else 1.0] * 8, rel=1e-4)


@pytest.mark.parametrize(
    "given",
    [
        {"scale_rewards": "batch"},
        {"scale_rewards": "none"},
        RLOO,
        {**RLOO, "normalize_advantages": True},
    ],
)
def test_nothing_is_damped_where_groups_are_not_scaled(
    tmp_path: Path, given: dict[str, Any]
) -> None:
    trainer = trainers.grpo(
        tmp_path,
        noting(CoherentPolicy),
        tasks=(plain_text,),
        cascade=RAMP,
        max_steps=1,
        **given,
    )
    trainer.train()
    assert trainer.noted[0] == pytest.approx(list(trainer._logs["advantages"]))


@pytest.mark.parametrize(
    ("mixin", "given"), [(CoherentPolicy, {}), (ReusedScores, RLOO)]
)
def test_the_cascade_opens_in_training_and_is_logged_each_step(
    tmp_path: Path, mixin: type, given: dict[str, Any]
) -> None:
    trainer = trainers.grpo(
        tmp_path,
        mixin,
        tasks=(plain_text,),
        task_weights=(2.0,),
        cascade={"carl_start": 2, "warmup_steps": 2, "carl_weight": 0.5},
        max_steps=5,
        **given,
    )
    trainer.train()
    assert logged(trainer, "carl/stage") == [0, 0, 1, 1, 1]
    assert logged(trainer, "carl/weight") == [0, 0, 0.25, 0.5, 0.5]
    assert logged(trainer, "cascade/metric") == [0.5] * 5
    seen = logged(trainer, "rewards/carl/mean")
    assert [x is None for x in seen] == [True, True, False, False, False]
    reward = logged(trainer, "reward")
    assert reward[:2] == [0.5, 0.5]
    assert reward[2] == pytest.approx(0.5 + 0.25 * seen[2], abs=1e-5)
    for name in ("coherence", "cloud", "discontinuity"):
        assert all(0 <= x <= 1 for x in logged(trainer, f"carl/{name}"))


def test_an_adaptive_cascade_opens_on_the_task_reward_alone(tmp_path: Path) -> None:
    """Solved from the start: ten generations in stage A, whatever CARL would say."""
    trainer = trainers.grpo(
        tmp_path,
        tasks=(fixed([1.0]),),
        cascade={"maximum": 1.0, "warmup_steps": 1},
        max_steps=12,
        max_completion_length=2,
    )
    trainer.train()
    assert logged(trainer, "carl/stage") == [0] * 10 + [1, 1]
    assert (trainer.cascade.opened_at, trainer.cascade.reason) == (10, "solved")


@pytest.mark.parametrize(
    ("mixin", "given"), [(CoherentPolicy, {}), (ReusedScores, RLOO)]
)
def test_samples_tell_what_was_generated_and_how(
    tmp_path: Path, mixin: type, given: dict[str, Any]
) -> None:
    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    model = tiny.model()
    trainer = trainers.grpo(
        tmp_path,
        mixin,
        model=model,
        tasks=(fixed([0.5, None]),),
        cascade={"carl_start": 2, "warmup_steps": 1},
        learning_rate=0.0,
        max_steps=4,
        samples_every=2,
        temperature=0.7,
        **given,
    )
    trainer.train()
    lines = (tmp_path / "samples.jsonl").read_text().splitlines()
    samples = [json.loads(line, parse_constant=no_constant) for line in lines]
    assert len({sample["step"] for sample in samples}) == 2
    for sample in samples:
        exact = brute_force(model, sample["prompt"], sample["token_ids"], 0.7)
        assert sample["p"] == pytest.approx(exact[0].exp().tolist(), abs=1e-5)
        phi = [reference.phi_of(h, WIDTH) for h in exact[1].tolist()]
        assert sample["phi"] == pytest.approx(phi, abs=1e-5)
        assert set(sample["rewards"]) == {"table", "carl"}
        text = tiny.tokenizer().decode(sample["token_ids"], skip_special_tokens=True)
        assert sample["completion"] == [{"role": "assistant", "content": text}]
    half = len(samples) // 2
    assert {s["rewards"]["carl"] for s in samples[:half]} == {None}
    assert samples[half]["rewards"]["table"] == 0.5
    assert samples[half]["rewards"]["carl"] > 0
    assert samples[half + 1]["rewards"] == {"table": None, "carl": None}


def test_conversations_are_scored_as_text_of_the_last_message(tmp_path: Path) -> None:
    trainer = trainers.grpo(tmp_path, cascade=STAGE_A, tasks=(lower,), max_steps=1)
    trainer.train()
    assert 0 < logged(trainer, "rewards/lower/mean")[0] < 1


@pytest.mark.parametrize("method", ["GRPO", "RLOO"])
def test_an_evaluation_is_by_the_task_alone_and_leaves_no_trace(
    tmp_path: Path, method: str
) -> None:
    trainer = trainers.grpo(
        tmp_path, method=method, samples_every=1, per_device_eval_batch_size=8
    )
    trainer.train()
    before = copy.deepcopy(vars(trainer.cascade))
    samples = (tmp_path / "samples.jsonl").read_bytes()
    assert trainer.cascade.stage == "B"
    found = trainer.evaluate(eval_dataset=trainers.chats(2))
    assert found["eval_reward"] == pytest.approx(found["eval_rewards/lower/mean"])
    assert vars(trainer.cascade) == before
    assert (tmp_path / "samples.jsonl").read_bytes() == samples
