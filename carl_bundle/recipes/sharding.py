"""One model over several GPUs: what the trainer and `accelerate launch` are told."""

from __future__ import annotations

from typing import Any

from carl_bundle.errors import UsageError
from carl_bundle.spec.train_spec import TrainSpec

ZERO: dict[str, Any] = {
    "bf16": {"enabled": "auto"},
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
}
"""A DeepSpeed configuration; transformers fills `auto` from the trainer's arguments."""

STAGES: dict[str, dict[str, Any]] = {
    "zero2": {"stage": 2, "overlap_comm": True, "contiguous_gradients": True},
    "zero3": {
        "stage": 3,
        "overlap_comm": True,
        "contiguous_gradients": True,
        "stage3_prefetch_bucket_size": "auto",
        "stage3_param_persistence_threshold": "auto",
        "stage3_gather_16bit_weights_on_model_save": True,
    },
}

FSDP2: dict[str, Any] = {
    "version": 2,
    "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
    "cpu_ram_efficient_loading": True,
    "reshard_after_forward": True,
    "state_dict_type": "FULL_STATE_DICT",
}
"""One shard a decoder layer, as the model's class names it; what is saved is whole."""

LAUNCHED: dict[str, Any] = {
    "compute_environment": "LOCAL_MACHINE",
    "machine_rank": 0,
    "num_machines": 1,
    "rdzv_backend": "static",
    "same_network": True,
    "use_cpu": False,
}
"""What `accelerate launch` reads of any file; its options win over these."""


def sharded_arguments(spec: TrainSpec, checkpointing: bool | None) -> dict[str, Any]:
    """Trainer arguments by which a phase shards its model, if the spec says so.

    FSDP saves activations by itself: the trainer's way would gather weights twice.
    """
    if spec.sharding == "none":
        return {}
    if spec.sharding == "fsdp2":
        own = {**FSDP2, "activation_checkpointing": bool(checkpointing)}
        return {"fsdp": True, "fsdp_config": own, "gradient_checkpointing": False}
    return {"deepspeed": {**ZERO, "zero_optimization": STAGES[spec.sharding]}}


def environment(spec: TrainSpec) -> dict[str, str]:
    """What accelerate and transformers look for when weights are read, for FSDP.

    With it the first process of a machine alone reads them, and gloo gathers them.
    """
    saved = {"FSDP_STATE_DICT_TYPE": FSDP2["state_dict_type"]}
    return {"ACCELERATE_USE_FSDP": "true", **saved} if spec.sharding == "fsdp2" else {}


def accelerate_config(spec: TrainSpec) -> dict[str, Any]:
    """The values of a configuration file for `accelerate launch`, of a resolved spec.

    How many processes and machines there are comes from its command line.
    """
    halves = [phase.bf16 is not False for phase in spec.phases.values()]
    precision = "bf16" if all(halves) else "no"
    config = {**LAUNCHED, "mixed_precision": precision}
    if spec.sharding == "none":
        return {**config, "distributed_type": "MULTI_GPU"}
    if spec.sharding == "fsdp2":
        saved = [bool(phase.gradient_checkpointing) for phase in spec.phases.values()]
        own = {**FSDP2, "activation_checkpointing": all(saved), "offload_params": False}
        named = {f"fsdp_{name}": value for name, value in own.items()}
        return {**config, "distributed_type": "FSDP", "fsdp_config": named}
    zero: dict[str, Any] = {
        "offload_optimizer_device": "none",
        "offload_param_device": "none",
        "zero_stage": STAGES[spec.sharding]["stage"],
    }
    if spec.sharding == "zero3":
        zero |= {"zero3_init_flag": True, "zero3_save_16bit_model": True}
    return {**config, "distributed_type": "DEEPSPEED", "deepspeed_config": zero}


COMMAND = """\
# accelerate launch --config_file FILE --num_processes N SCRIPT
# With M machines, on each of them: --num_machines M --machine_rank I
# --main_process_ip HOST --main_process_port PORT, N counting the GPUs of all.
# Every machine must see the run directory at the same path.
"""


def accelerate_text(frozen: TrainSpec) -> str:
    """The file for `accelerate launch` of a frozen spec.

    Raises UsageError for a pipeline, whose phases are processes of their own.
    """
    import yaml

    from carl_bundle.spec.defaults import resolve

    spec = resolve(frozen)
    if spec.method == "pipeline":
        raise UsageError(
            "a launcher runs one phase, and a pipeline has several",
            remedy="start the script with python: it starts torchrun on all GPUs",
        )
    return COMMAND + yaml.safe_dump(accelerate_config(spec), sort_keys=True)
