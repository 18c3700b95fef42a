"""The memory budget and the cost of a run are arithmetic that can be redone."""

from __future__ import annotations

from typing import Any

import pytest

from carl_bundle.spec.cost import estimate_cost
from carl_bundle.spec.defaults import resolve
from carl_bundle.spec.measure import Measurement
from carl_bundle.spec.model_spec import ModelSpec
from carl_bundle.spec.train_spec import TrainSpec
from carl_bundle.spec.unknown import Unknown
from carl_bundle.spec.vram import VRAMBudget
from tests.spec.conftest import QWEN3, MakeModel

MEASURED = Measurement(1000, 1000, ("a",), 10)


def plan_of(**fields: Any) -> TrainSpec:
    rewards = [{"name": "exact_answer"}]
    return resolve(
        TrainSpec.model_validate(
            {"model": "org/model", "data": "a.jsonl", "rewards": rewards, **fields}
        )
    )


def rows_of(budget: VRAMBudget) -> dict[str, Any]:
    return {row.name: row.bytes for row in budget.rows}


def test_adapters_take_what_the_formulas_say(make_model: MakeModel) -> None:
    model = ModelSpec.from_pretrained(make_model(QWEN3))
    plan = plan_of(
        lora={"r": 4},
        grpo={
            "per_device_train_batch_size": 8,
            "gradient_accumulation_steps": 1,
            "max_length": 64,
            "max_completion_length": 32,
        },
    )
    budget = VRAMBudget.estimate(plan, model, "grpo", measurement=MEASURED)

    cache = 8 * 64 * 4 * 2 * 2 * 16 * 2
    activations = 8 * 64 * 64 * 4 * 4
    tile = 512 * 320 * 2
    assert rows_of(budget) == {
        "weights": 2000,
        "gradients": 160,
        "optimizer": 320,
        "activations": activations,
        "logits tile": tile,
        "kv cache": cache,
        "reference": 0,
        "vllm share": 0,
    }
    assert budget.total == 2000 + 160 + 320 + max(cache, activations + tile)
    assert budget.disk.bytes == 2 * (160 + 320)
    assert budget.calibrated is False


def test_full_training_with_a_reference_holds_the_weights_twice(
    make_model: MakeModel,
) -> None:
    model = ModelSpec.from_pretrained(make_model(QWEN3))
    plan = plan_of(lora=False, grpo={"beta": 0.1})
    rows = rows_of(VRAMBudget.estimate(plan, model, "grpo", measurement=MEASURED))

    assert (rows["weights"], rows["gradients"], rows["optimizer"]) == (4000, 4000, 8000)
    assert rows["reference"] == 4000


def test_vllm_takes_a_share_of_a_known_gpu(make_model: MakeModel) -> None:
    model = ModelSpec.from_pretrained(make_model(QWEN3))
    plan = plan_of(
        grpo={"vllm": "colocate", "trainer": {"vllm_gpu_memory_utilization": 0.25}}
    )

    unknown = VRAMBudget.estimate(plan, model, "grpo", measurement=MEASURED)
    known = VRAMBudget.estimate(
        plan, model, "grpo", measurement=MEASURED, gpu_bytes=1000
    )
    assert isinstance(rows_of(unknown)["vllm share"], Unknown)
    assert isinstance(unknown.total, Unknown)
    assert rows_of(known)["vllm share"] == 250


def test_without_measuring_the_weights_on_disk_tell_the_parameters(
    make_model: MakeModel,
) -> None:
    directory = make_model(
        QWEN3,
        model__safetensors__index__json='{"metadata": {"total_size": 5000}}',
    )
    model = ModelSpec.from_pretrained(directory)
    plan = plan_of(model={"id": "a/b", "dtype": "bfloat16"})
    rows = rows_of(VRAMBudget.estimate(plan, model, "sft"))

    assert rows["weights"] == 5000
    assert rows["kv cache"] == 0


def test_what_is_not_known_is_not_guessed(make_model: MakeModel) -> None:
    model = ModelSpec.from_pretrained(make_model(QWEN3))
    budget = VRAMBudget.estimate(plan_of(), model, "sft")

    assert isinstance(rows_of(budget)["weights"], Unknown)
    assert isinstance(budget.total, Unknown)


def test_cost_is_steps_times_seconds_times_price() -> None:
    plan = resolve(TrainSpec.model_validate({"sft": {"max_steps": 100}}))
    steps = 100 + (plan.grpo.max_steps or 0)
    cost = estimate_cost(plan, step_seconds=36.0, price=2.0)

    assert cost.hours == pytest.approx(steps / 100)
    assert cost.dollars == pytest.approx(2 * steps / 100)
    sft = cost.phases[0]
    rows = (plan.sft.per_device_train_batch_size or 0) * (plan.sft.max_length or 0)
    assert sft.tokens == 100 * rows


def test_cost_without_measurement_is_unknown() -> None:
    cost = estimate_cost(plan_of(method="sft"), price=2.0)

    assert isinstance(cost.hours, Unknown)
    assert isinstance(cost.dollars, Unknown)
    assert isinstance(cost.phases[0].tokens, Unknown)
