"""Rules between fields: each broken one is named, with a way out that works."""

from __future__ import annotations

from typing import Any

import pytest

from carl_bundle.errors import SpecError
from carl_bundle.spec.train_spec import TrainSpec

HUB: dict[str, Any] = {
    "model": "org/model",
    "data": "org/rows",
    "rewards": [{"name": "exact_answer"}],
}
FROZEN = {"config_sha256": "0" * 64, "context_length": 512}


def spec_of(**fields: Any) -> dict[str, Any]:
    return {**HUB, **fields}


# where -> (a spec that breaks the rule, a word of the remedy, the spec it leads to)
BROKEN: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    (
        "rewards",
        {"model": "a/b", "data": "c/d", "method": "grpo"},
        "exact_answer",
        {"model": "a/b", "data": "c/d", "method": "sft"},
    ),
    (
        "grpo.per_device_train_batch_size, grpo.num_generations",
        spec_of(grpo={"num_generations": 6, "per_device_train_batch_size": 4}),
        "to 6",
        spec_of(grpo={"num_generations": 6, "per_device_train_batch_size": 6}),
    ),
    (
        "rloo.per_device_train_batch_size, rloo.num_generations",
        spec_of(
            method="rloo", rloo={"num_generations": 6, "per_device_train_batch_size": 4}
        ),
        "to 6",
        spec_of(
            method="rloo", rloo={"num_generations": 6, "per_device_train_batch_size": 6}
        ),
    ),
    (
        "rloo.beta",
        {"method": "rloo", "rloo": {"beta": 0.05}},
        "lora block",
        {"method": "rloo", "rloo": {"beta": 0.05}, "lora": {"r": 4}},
    ),
    (
        "kto.per_device_train_batch_size",
        spec_of(method="kto", kto={"per_device_train_batch_size": 1}),
        "at least 2",
        spec_of(method="kto", kto={"per_device_train_batch_size": 2}),
    ),
    (
        "data.columns",
        spec_of(method="dpo", data={"id": "a/b", "columns": {"answer": "a"}}),
        "name prompt, chosen, rejected",
        spec_of(method="dpo", data={"id": "a/b", "columns": {"chosen": "a"}}),
    ),
    (
        "kto.data.columns",
        spec_of(method="kto", kto={"data": {"id": "c/d", "columns": {"chosen": "a"}}}),
        "name prompt, completion, label",
        spec_of(method="kto", kto={"data": {"id": "c/d", "columns": {"label": "a"}}}),
    ),
    (
        "eval.patience",
        spec_of(eval={"patience": 3}),
        "eval.every",
        spec_of(method="sft", eval={"every": 10, "patience": 3}),
    ),
    (
        "eval.every",
        spec_of(eval={"every": 10}),
        "method: sft",
        spec_of(method="sft", eval={"every": 10}),
    ),
    (
        "eval.patience",
        spec_of(method="sft", eval={"every": 10, "best": False, "patience": 3}),
        "eval.best",
        spec_of(method="sft", eval={"every": 10, "best": True, "patience": 3}),
    ),
    (
        "sft.save_steps, eval.every",
        spec_of(method="sft", eval={"every": 10}, sft={"save_steps": 25}),
        "to 10",
        spec_of(method="sft", eval={"every": 10}, sft={"save_steps": 10}),
    ),
    (
        "eval.data",
        spec_of(method="dpo", eval={"every": 10, "data": "held-out.jsonl"}),
        "both from the hub",
        spec_of(method="dpo", eval={"every": 10, "data": "org/held-out"}),
    ),
    (
        "lora",
        spec_of(model={"id": "a/b", "quantize": "4bit"}, lora=False),
        "remove `lora: false`",
        spec_of(model={"id": "a/b", "quantize": "4bit"}, lora={"r": 8}),
    ),
    (
        "model.quantize",
        spec_of(
            model={"id": "a/b", "quantize": "4bit", "frozen": {"quantization": "awq"}}
        ),
        "unquantised checkpoint",
        spec_of(model={"id": "a/b", "frozen": {"quantization": "awq"}}),
    ),
    (
        "model.chat_template",
        spec_of(model={"id": "a/b", "chat_template": "{% for m in x %}"}),
        "text of a template",
        spec_of(model={"id": "a/b", "chat_template": "{{ messages }}"}),
    ),
    (
        "model.thinking",
        {"model": {"id": "builtin", "thinking": "off"}},
        "remove it",
        {"model": {"id": "builtin", "thinking": "auto"}},
    ),
    (
        "model.thinking, sft.trainer.assistant_only_loss",
        spec_of(
            model={"id": "a/b", "thinking": "off"},
            method="sft",
            sft={"trainer": {"assistant_only_loss": True}},
        ),
        "remove one",
        spec_of(
            model={"id": "a/b"},
            method="sft",
            sft={"trainer": {"assistant_only_loss": True}},
        ),
    ),
    (
        "grpo.too_long",
        spec_of(grpo={"too_long": "truncate"}),
        "drop",
        spec_of(grpo={"too_long": "refuse"}),
    ),
    (
        "dpo.trainer.losstype",
        spec_of(method="dpo", dpo={"trainer": {"losstype": "ipo"}}),
        "loss_type",
        spec_of(method="dpo", dpo={"loss_type": ["ipo", "sft"]}),
    ),
    (
        "lora.targets",
        spec_of(lora={"targets": ["q_proj", "model.lm_head"]}),
        "targets: auto",
        spec_of(lora={"targets": "auto"}),
    ),
    (
        "lora.dropout",
        spec_of(lora={"dropout": 0.1}),
        "0.0",
        spec_of(lora={"dropout": 0.1}, carl={"enabled": False}),
    ),
    (
        "grpo.trainer.entropy_coef",
        spec_of(grpo={"trainer": {"entropy_coef": 0.01}}),
        "carl.enabled",
        spec_of(grpo={"trainer": {"entropy_coef": 0.01}}, carl={"enabled": False}),
    ),
    (
        "grpo.trainer.use_adaptive_entropy",
        spec_of(grpo={"trainer": {"use_adaptive_entropy": True}}),
        "remove it",
        spec_of(grpo={"trainer": {"entropy_coef": 0.0}}),
    ),
    (
        "grpo.vllm",
        {"grpo": {"vllm": "server"}},
        "another model",
        spec_of(grpo={"vllm": "server"}),
    ),
    (
        "grpo.vllm, model.quantize",
        spec_of(grpo={"vllm": "colocate"}, model={"id": "a/b", "quantize": "8bit"}),
        "4bit",
        spec_of(grpo={"vllm": "colocate"}, model={"id": "a/b", "quantize": "4bit"}),
    ),
    (
        "grpo.trainer.vllm_tensor_parallel_size",
        spec_of(grpo={"trainer": {"vllm_tensor_parallel_size": 2}}),
        "set grpo.vllm",
        spec_of(grpo={"trainer": {"vllm_group_port": 2}, "vllm": "colocate"}),
    ),
    (
        "grpo.trainer.use_vllm",
        spec_of(grpo={"trainer": {"use_vllm": True}}),
        "set grpo.vllm",
        spec_of(grpo={"vllm": "server"}),
    ),
    (
        "carl.weights",
        spec_of(carl={"weights": [0.5, 0.5, 0.5]}),
        "sum to 1",
        spec_of(carl={"weights": [0.2, 0.3, 0.5]}),
    ),
    (
        "carl.carl_start, carl.cascade",
        spec_of(carl={"cascade": "fixed"}),
        "carl_start",
        spec_of(carl={"cascade": "fixed", "carl_start": 20}),
    ),
    (
        "carl.open_by, carl.cascade",
        spec_of(carl={"cascade": "fixed", "carl_start": 20, "open_by": 30}),
        "remove it",
        spec_of(carl={"open_by": 30}),
    ),
    (
        "gate.min_above, gate.window",
        spec_of(gate={"min_above": 6}),
        "at most 5",
        spec_of(gate={"min_above": 5}),
    ),
    (
        "eval.items, eval.threshold, eval.alpha",
        spec_of(eval={"threshold": 0.99, "items": 100}),
        "at least 299",
        spec_of(eval={"threshold": 0.99, "items": 299}),
    ),
    (
        "push.repo",
        spec_of(push={"enabled": True}),
        "owner/name",
        spec_of(push={"enabled": True, "repo": "me/it"}),
    ),
    (
        "sft.max_steps, sft.num_train_epochs",
        spec_of(sft={"max_steps": 3, "num_train_epochs": 1}),
        "remove one",
        spec_of(sft={"max_steps": 3}),
    ),
    (
        "sft.lr_scheduler_type",
        spec_of(sft={"lr_scheduler_type": "cosine_with_min_lr"}),
        "min_lr",
        spec_of(
            sft={
                "lr_scheduler_type": "cosine_with_min_lr",
                "trainer": {"lr_scheduler_kwargs": {"min_lr": 1e-6}},
            }
        ),
    ),
    (
        "sft.max_length",
        spec_of(model={"id": "a/b", "frozen": FROZEN}, sft={"max_length": 513}),
        "at most 512",
        spec_of(model={"id": "a/b", "frozen": FROZEN}, sft={"max_length": 512}),
    ),
    (
        "grpo.max_completion_length, grpo.max_length",
        spec_of(grpo={"max_completion_length": 512, "max_length": 512}),
        "raise grpo.max_length",
        spec_of(grpo={"max_completion_length": 512, "max_length": 600}),
    ),
    (
        "lora",
        spec_of(
            model={"id": "a/b", "frozen": {**FROZEN, "quantization": "gptq"}},
            lora=False,
            method="sft",
        ),
        "lora: false",
        spec_of(model={"id": "a/b", "frozen": {**FROZEN, "quantization": "gptq"}}),
    ),
    (
        "model.trust_remote_code",
        spec_of(model={"id": "a/b", "trust_remote_code": True, "revision": "main"}),
        "40-digit",
        spec_of(model={"id": "a/b", "trust_remote_code": True, "revision": "0" * 40}),
    ),
    (
        "model.revision",
        {"model": {"revision": "main"}},
        "name another model",
        {"model": {"id": "a/b", "revision": "main"}},
    ),
    (
        "data.revision",
        spec_of(data={"id": "rows.jsonl", "revision": "main"}),
        "remove it",
        spec_of(data={"id": "org/rows", "revision": "main"}),
    ),
    (
        "report_to",
        {"report_to": ["none", "wandb"]},
        "remove 'none'",
        {"report_to": ["wandb"]},
    ),
    (
        "dependencies.0",
        {"dependencies": ["numpy=1"]},
        "PEP 508",
        {"dependencies": ["numpy==1.26"]},
    ),
    (
        "rewards.0",
        spec_of(rewards=[{"weight": 1}]),
        "exact_answer",
        spec_of(rewards=[{"name": "length", "target": 9}]),
    ),
    (
        "rewards.0",
        {"method": "grpo", "rewards": [{"name": "tool_chain"}]},
        "data: rows.jsonl",
        spec_of(rewards=[{"name": "tool_chain"}]),
    ),
    (
        "rewards.0.scale",
        spec_of(rewards=[{"name": "coordinate_format", "scale": 1}]),
        "reward's name",
        spec_of(rewards=[{"name": "click_inside", "scale": 1}]),
    ),
    (
        "rewards.0.tools.0",
        spec_of(rewards=[{"name": "tool_selection", "tools": [{"title": "read"}]}]),
        "{name: read,",
        spec_of(rewards=[{"name": "tool_selection", "tools": [{"name": "read"}]}]),
    ),
    (
        "rewards.0.tools.0",
        spec_of(
            rewards=[{"name": "tool_selection", "tools": [{"name": "a", "x": {1, 2}}]}]
        ),
        "correct the value",
        spec_of(rewards=[{"name": "tool_selection", "tools": [{"name": "a", "x": 1}]}]),
    ),
    (
        "rewards.0.pattern",
        spec_of(rewards=[{"name": "conciseness", "pattern": "("}]),
        "correct it",
        spec_of(rewards=[{"name": "conciseness"}]),
    ),
    (
        "rewards.0.function",
        spec_of(rewards=[{"function": "score"}]),
        "path.py:function",
        spec_of(rewards=[{"function": "rewards.py:score"}]),
    ),
    (
        "rewards.0.pattern",
        spec_of(rewards=[{"name": "pattern", "pattern": "("}]),
        "correct it",
        spec_of(rewards=[{"name": "pattern", "pattern": "()"}]),
    ),
    (
        "rewards.0.extract",
        spec_of(rewards=[{"name": "exact_answer", "extract": "a"}]),
        "(...)",
        spec_of(rewards=[{"name": "exact_answer", "extract": "(a)"}]),
    ),
    (
        "rewards.0.target",
        spec_of(rewards=[{"name": "exact_answer", "target": 3}]),
        "remove it",
        spec_of(rewards=[{"name": "length", "target": 3}]),
    ),
    (
        "rewards.1",
        spec_of(rewards=[{"name": "exact_answer"}, {"name": "exact_answer"}]),
        "keep one",
        spec_of(rewards=[{"name": "exact_answer"}]),
    ),
]


@pytest.mark.parametrize(
    ("where", "broken", "remedy", "mended"), BROKEN, ids=[b[0] for b in BROKEN]
)
def test_a_broken_rule_is_named_and_its_remedy_helps(
    where: str, broken: dict[str, Any], remedy: str, mended: dict[str, Any]
) -> None:
    with pytest.raises(SpecError) as caught:
        TrainSpec.model_validate(broken)

    assert [problem.where for problem in caught.value.problems] == [where]
    assert remedy in caught.value.problems[0].remedy
    TrainSpec.model_validate(mended)


def test_grpo_without_a_reward_is_shown_three_ways_on() -> None:
    with pytest.raises(SpecError) as caught:
        TrainSpec(model="a/b", data="c/d", method="grpo")

    remedy = caught.value.problems[0].remedy
    assert "name: exact_answer" in remedy
    assert "function:" in remedy
    assert "method: sft" in remedy


def test_rules_of_a_phase_that_does_not_run_are_silent() -> None:
    TrainSpec.model_validate(
        spec_of(
            method="sft",
            grpo={"num_generations": 6, "per_device_train_batch_size": 4},
            lora={"targets": ["lm_head"], "dropout": 0.1},
        )
    )


def test_an_access_token_in_a_spec_is_refused() -> None:
    with pytest.raises(SpecError, match="access token") as caught:
        TrainSpec.model_validate({"output_dir": "runs/hf_" + "a" * 30})

    assert "HF_TOKEN" in caught.value.remedy
