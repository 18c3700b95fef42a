"""One model over several GPUs: what trainers, DeepSpeed and accelerate are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from carl_bundle import TrainSpec, bundle
from carl_bundle.errors import SpecError, UsageError
from carl_bundle.recipes import plan
from carl_bundle.recipes.sharding import accelerate_text

FROZEN = {"commit": "a" * 40, "architecture": "LlamaForCausalLM"}
KINDS = ("fsdp2", "zero2", "zero3")
METHODS = ("sft", "grpo", "rloo", "dpo", "kto", "orpo")


def spec(sharding: str, method: str = "sft", **more: Any) -> TrainSpec:
    given: dict[str, Any] = {
        "method": method,
        "model": {"id": "a/b", "frozen": FROZEN},
        "data": "rows.jsonl",
        "sharding": sharding,
    }
    if method in ("grpo", "rloo", "pipeline"):
        given["rewards"] = [{"name": "length", "target": 5}]
    return TrainSpec.model_validate(given | more)


def trainer(sharding: str, method: str = "sft", **more: Any) -> dict[str, Any]:
    block = plan(spec(sharding, method, **more)).config[method]["trainer"]
    assert isinstance(block, dict)
    return block


def test_unsharded_scripts_name_no_way_of_sharding() -> None:
    given = plan(spec("none"))
    assert (
        not {"fsdp", "fsdp_config", "deepspeed"} & given.config["sft"]["trainer"].keys()
    )
    text = bundle(spec("none"))
    assert "check_ranks" not in text
    assert "deepspeed" not in text.partition('"""')[0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sharding", KINDS)
def test_a_sharded_script_reads_its_arguments_before_its_model(
    sharding: str, method: str
) -> None:
    text = bundle(spec(sharding, method))
    phase = text[text.index(f"def {method}(run") :]
    assert phase.index("check_ranks()") < phase.index("Config(**training_arguments")
    assert phase.index("Config(**training_arguments") < phase.index("load_model(")
    header = text.partition('"""')[0]
    assert ("deepspeed==" in header) == sharding.startswith("zero")


@pytest.mark.parametrize("checkpointing", [True, False])
def test_transformers_takes_the_values_for_fsdp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpointing: bool
) -> None:
    """Activations are saved by FSDP: the trainer's own way may not be on as well."""
    from trl import SFTConfig

    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "")
    given = trainer("fsdp2", sft={"gradient_checkpointing": checkpointing})
    made = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **given)
    found = made.fsdp_plugin_args
    assert found["fsdp_version"] == 2
    assert found["auto_wrap_policy"] == "TRANSFORMER_BASED_WRAP"
    assert found["state_dict_type"] == "FULL_STATE_DICT"
    assert found["activation_checkpointing"] is checkpointing
    assert not made.gradient_checkpointing


def test_accelerate_takes_the_values_for_fsdp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate.utils import FullyShardedDataParallelPlugin
    from trl import SFTConfig

    for name in ("FSDP_CPU_RAM_EFFICIENT_LOADING", "FSDP_VERSION", "FSDP_AUTO_WRAP"):
        monkeypatch.setenv(name, "")
    made = SFTConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, **trainer("fsdp2")
    )
    plugin = FullyShardedDataParallelPlugin(**made.fsdp_plugin_args)
    assert plugin.fsdp_version == 2
    assert "FULL_STATE_DICT" in str(plugin.state_dict_type)
    assert plugin.reshard_after_forward is True


def test_fsdp_reads_the_weights_once_a_machine() -> None:
    environments = [plan(spec(kind)).config["environment"] for kind in ("none", *KINDS)]
    assert [e.get("ACCELERATE_USE_FSDP") for e in environments] == [
        None,
        "true",
        None,
        None,
    ]


@pytest.mark.parametrize("sharding", ["none", *KINDS])
def test_a_step_is_skipped_only_where_the_update_can_wait(sharding: str) -> None:
    if sharding.startswith("zero"):
        with pytest.raises(SpecError, match="before a step can be left out"):
            spec(sharding, non_finite="skip")
    else:
        block = plan(spec(sharding, non_finite="skip")).config["sft"]
        assert block["non_finite"] == "skip"
    assert plan(spec(sharding)).config["sft"]["non_finite"] == "stop"


@pytest.mark.parametrize("sharding", ["zero2", "zero3"])
def test_deepspeed_knows_the_keys(sharding: str) -> None:
    zero_config = pytest.importorskip("deepspeed.runtime.zero.config")
    given = trainer(sharding)["deepspeed"]
    known = zero_config.DeepSpeedZeroConfig.model_fields
    names = set(known) | {field.alias for field in known.values() if field.alias}
    assert set(given["zero_optimization"]) <= names


def test_zero_3_gathers_what_it_saves() -> None:
    zero = trainer("zero3")["deepspeed"]["zero_optimization"]
    assert zero["stage"] == 3
    assert zero["stage3_gather_16bit_weights_on_model_save"] is True


@pytest.mark.parametrize("sharding", ["none", *KINDS])
def test_accelerate_loads_the_file(tmp_path: Path, sharding: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    path = tmp_path / "train.accelerate.yaml"
    path.write_text(accelerate_text(spec(sharding)))
    loaded = load_config_from_file(str(path))
    kinds = {"none": "MULTI_GPU", "fsdp2": "FSDP"}
    assert loaded.distributed_type.value == kinds.get(sharding, "DEEPSPEED")
    assert (loaded.num_machines, loaded.num_processes) == (1, -1)  # of the command line
    if sharding == "fsdp2":
        own = trainer("fsdp2")["fsdp_config"]
        same = {f"fsdp_{name}": value for name, value in own.items()}
        assert same.items() <= loaded.fsdp_config.items()
    if sharding.startswith("zero"):
        stage = trainer(sharding)["deepspeed"]["zero_optimization"]["stage"]
        assert loaded.deepspeed_config["zero_stage"] == stage


def test_a_pipeline_is_nothing_for_a_launcher() -> None:
    with pytest.raises(UsageError, match="has several") as refused:
        accelerate_text(spec("none", "pipeline"))
    assert "with python" in refused.value.remedy


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"sharding": "zero3", "model": {"id": "a/b", "quantize": "4bit"}}, "ZeRO-3"),
    ({"sharding": "fsdp2", "model": {"id": "a/b", "quantize": "8bit"}}, "accelerate"),
    (
        {
            "sharding": "fsdp2",
            "model": {"id": "a/b", "frozen": {**FROZEN, "quantization": "gptq"}},
        },
        "gptq",
    ),
    ({"sharding": "zero2", "model": "builtin", "data": "builtin"}, "built-in"),
    ({"sharding": "fsdp2", "method": "pipeline"}, "one GPU"),
    ({"sharding": "zero3", "method": "pipeline"}, "one GPU"),
    ({"sft": {"trainer": {"fsdp": "full_shard"}}}, "CARL controls"),
    ({"sft": {"trainer": {"deepspeed": {}}}}, "CARL controls"),
]


@pytest.mark.parametrize(("given", "reason"), REFUSED)
def test_what_cannot_work_is_refused_with_a_way_out(
    given: dict[str, Any], reason: str
) -> None:
    base = {"method": "sft", "model": "a/b", "data": "rows.jsonl"}
    if given.get("method") == "pipeline":
        base["rewards"] = [{"name": "length", "target": 5}]  # type: ignore[assignment]
    with pytest.raises(SpecError) as refused:
        TrainSpec.model_validate(base | given)
    found = [one for one in refused.value.problems if reason in one.message]
    assert len(found) == 1
    assert found[0].remedy


def test_few_bits_go_with_zero_2() -> None:
    model = {"id": "a/b", "quantize": "4bit", "frozen": FROZEN}
    assert "load_quantized(" in bundle(spec("zero2", model=model))
