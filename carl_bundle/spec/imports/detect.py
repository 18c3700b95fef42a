"""Which tool a configuration file belongs to, by the keys that only one tool has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from carl_bundle.errors import UsageError

Format = Literal["trl", "axolotl", "llamafactory"]
FORMATS: tuple[Format, ...] = get_args(Format)

_OWN_KEYS: dict[Format, frozenset[str]] = {
    "trl": frozenset(
        [
            "dataset_name",
            "dataset_config",
            "dataset_train_split",
            "dataset_test_split",
            "dataset_streaming",
            "use_peft",
            "reward_funcs",
            "reward_model_name_or_path",
            "dtype",
            "torch_dtype",
            "max_seq_length",
            "num_generations",
            "max_completion_length",
            "use_bnb_nested_quant",
        ]
    ),
    "axolotl": frozenset(
        [
            "base_model",
            "micro_batch_size",
            "sequence_len",
            "num_epochs",
            "adapter",
            "rl",
            "rl_beta",
            "lora_target_linear",
            "sample_packing",
            "pretraining_dataset",
            "val_set_size",
            "dataset_prepared_path",
            "flash_attention",
            "lr_scheduler",
            "optimizer",
        ]
    ),
    "llamafactory": frozenset(
        [
            "stage",
            "finetuning_type",
            "template",
            "cutoff_len",
            "dataset",
            "dataset_dir",
            "lora_rank",
            "lora_target",
            "pref_beta",
            "pref_loss",
            "flash_attn",
            "quantization_bit",
            "overwrite_cache",
        ]
    ),
}
_CARL_KEYS = frozenset(
    ["model", "data", "carl", "gate", "dataset_repo", "compute_target"]
)
_CHOOSE = f"name the tool with --from {'|'.join(FORMATS)}"


def detect(settings: Mapping[str, Any], source: str) -> Format:
    """Return the format of a configuration file.

    Args:
        settings: What the file holds.
        source: Its name, for errors.

    Raises:
        UsageError: The keys tell none, or several; or it is a carl.yaml.
    """
    if _CARL_KEYS & settings.keys():
        raise UsageError(
            f"{source} looks like a carl.yaml already",
            remedy=f"give it to `carl bundle`, or {_CHOOSE}",
        )
    found = {name: own & settings.keys() for name, own in _OWN_KEYS.items()}
    matching = [name for name in FORMATS if found[name]]
    if len(matching) == 1:
        return matching[0]
    if not matching:
        raise UsageError(
            f"{source} holds no key that only TRL, axolotl or LLaMA-Factory has",
            remedy=_CHOOSE,
        )
    seen = "; ".join(f"{name}: {', '.join(sorted(found[name]))}" for name in matching)
    raise UsageError(f"{source} holds keys of several tools ({seen})", remedy=_CHOOSE)
