"""Which quantised checkpoints can be trained, and how.

From `is_trainable` of the quantizers in the pinned transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from carl_bundle.spec.config_reader import ConfigReader

Verdict = Literal["adapters", "dequantize", "no", "unknown"]

ADAPTERS = frozenset(
    {
        "aqlm",
        "awq",
        "bitsandbytes",
        "bitsandbytes_4bit",
        "bitsandbytes_8bit",
        "compressed-tensors",
        "eetq",
        "fp8",
        "gptq",
        "hqq",
        "mxfp8",
        "quanto",
        "sinq",
    }
)
DEQUANTIZE = frozenset({"mxfp4"})
UNTRAINABLE = frozenset(
    {
        "auto-round",
        "fbgemm_fp8",
        "gemma",
        "gguf",
        "higgs",
        "metal",
        "nvfp4",
        "quark",
        "spqr",
        "vptq",
    }
)
# bitnet, fouroversix, fp_quant and torchao depend on how the weights were stored.


@dataclass(frozen=True)
class Quantization:
    """How the weights of a checkpoint are stored.

    Attributes:
        method: `quant_method` of the checkpoint.
        training: `adapters` (LoRA only), `dequantize` (load as plain weights),
            `no`, or `unknown`.
        remedy: What to do where plain training is not possible.
    """

    method: str
    training: Verdict
    remedy: str


def read_quantization(config: ConfigReader) -> Quantization | None:
    """Return how a checkpoint is quantised, or None where it is not.

    Raises:
        UsageError: `quantization_config` is no object with a `quant_method`.
    """
    block = config.block("quantization_config")
    if block is None:
        return None
    method = ConfigReader(
        config.source, f"{config.prefix}quantization_config.", block, {}
    ).name("quant_method")
    if method is None:
        # bitsandbytes wrote no method before transformers had others.
        bits = block.get("load_in_4bit") or block.get("load_in_8bit")
        method = "bitsandbytes" if bits else "unnamed"
    if method in ADAPTERS:
        return Quantization(method, "adapters", "keep LoRA on (do not set lora: false)")
    if method in DEQUANTIZE:
        return Quantization(
            method, "dequantize", "the script loads it dequantised; expect the memory"
        )
    remedy = "choose the unquantised checkpoint of this model"
    return Quantization(method, "no" if method in UNTRAINABLE else "unknown", remedy)
