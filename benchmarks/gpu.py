"""What only a GPU can tell: the field's speed, a step's cost, predicted memory.

python -m benchmarks.gpu

Models have the shape of one with half a billion parameters, and random weights. Without
CUDA nothing is measured.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import PAIRS, Row, by_turns, ratio, report

HALF_BILLION = {
    "rows": 151_936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "tie_word_embeddings": True,
    "initializer_range": 0.02,
    "max_position_embeddings": 4096,
}
STEPS = {"max_steps": 3, "per_device_train_batch_size": 4, "max_length": 1024}
SAMPLED = {**STEPS, "num_generations": 4, "max_completion_length": 512}
GRPO = {"method": "grpo", "grpo": SAMPLED, "rewards": [{"name": "exact_answer"}]}
RUNS: dict[str, dict[str, Any]] = {
    "SFT, all weights": {"method": "sft", "sft": STEPS, "lora": False},
    "SFT, LoRA in bf16": {"method": "sft", "sft": STEPS},
    "SFT, QLoRA in 4 bits": {"method": "sft", "sft": STEPS, "quantize": "4bit"},
    "GRPO, LoRA in bf16": GRPO,
    "GRPO, vLLM on the same GPU": {**GRPO, "grpo": {**SAMPLED, "vllm": "colocate"}},
}


@dataclass(frozen=True)
class Load:
    """How much is measured: a test takes less, and on a CPU."""

    shape: dict[str, Any]
    tokens: int  # of the field
    steps: dict[str, Any]  # arguments of the trainer
    pairs: int
    runs: dict[str, dict[str, Any]]


def clock() -> float:
    """Seconds on the wall, when the GPU has done what it was asked to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def field(load: Load) -> list[Row]:
    """Tokens a second, and how much of the bandwidth of a copy that is."""
    from carl_runtime_min.field import token_field

    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = load.tokens, load.shape["rows"]
    logits = torch.randn(size, dtype=torch.bfloat16, device=device)
    ids = torch.randint(0, size[1], size[:1], device=device)
    copy = torch.empty_like(logits)
    taken = by_turns(
        {
            "field": lambda: token_field(logits, ids),
            "copy": lambda: copy.copy_(logits),
        },
        load.pairs,
        clock,
    )
    seconds = {name: statistics.median(times) for name, times in taken.items()}
    bandwidth = 2 * logits.nbytes / seconds["copy"]  # it reads, and writes
    reads = logits.nbytes / seconds["field"]
    name = f"GPU: field of {size[0]} x {size[1]} in bf16"
    return [
        Row(f"{name}, tokens a second", load.tokens / seconds["field"], form=",.0f"),
        Row("GPU: memory bandwidth of a copy, GB/s", bandwidth / 1e9, form=",.0f"),
        Row(f"{name}, share of that", reads / bandwidth, form=".1%"),
    ]


def steps(load: Load) -> list[Row]:
    """A GRPO step with CARL beside one without."""
    from benchmarks.step import OUTLIVING, paired
    from carl_runtime_min.grpo import CoherentPolicy, ReusedScores, SampledPolicy

    found = []
    for name, mixin, given in (
        ("pass", CoherentPolicy, {}),
        ("reuse", ReusedScores, OUTLIVING),
    ):
        options = load.pairs, {**load.steps, **given}, load.shape, clock
        row = ratio(
            f"GPU: GRPO step, {name} / without CARL",
            *paired(mixin, SampledPolicy, *options),
        )
        found.append(row)
    return found


def memory(load: Load) -> list[Row]:
    """What `carl inspect` predicts, over the peak of a run of the script."""
    from tests import tiny

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = str(tiny.save(folder / "model", **load.shape))
        text = "".join(chr(97 + 7 * i % 26) for i in range(4096))
        row = {"prompt": "say it", "completion": text, "answer": text}
        data = str(tiny.write_jsonl(folder / "rows.jsonl", [row] * 64))
        return [
            Row(f"GPU: peak memory, predicted / measured: {title}", share, form=".2f")
            for title, spec in load.runs.items()
            for share in [predicted_share(folder / title, spec, model, data)]
        ]


def predicted_share(
    folder: Path, spec: dict[str, Any], model: str, data: str
) -> float | None:
    """Predicted over measured bytes; None where vLLM is missing."""
    from tests.scripts import here, render

    phase = spec["method"]
    if "vllm" in spec[phase] and not importlib.util.find_spec("vllm"):
        return None
    settings = {k: v for k, v in spec.items() if k != "quantize"}
    named = {"id": model, "quantize": spec.get("quantize")}
    script = render(
        folder, {"name": "memory", **settings, "model": named, "data": data}
    )
    command = [sys.executable, "-m", "carl_bundle.cli.app", "inspect", "carl.yaml"]
    command += ["--json", "--measure"]
    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        command += ["--gpu-gib", str(total / 2**30)]
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    told = subprocess.run(command, cwd=folder, check=True, capture_output=True)
    budget = json.loads(told.stdout)["budgets"][0]["total"]
    code = here(script, "--run-dir", str(folder / "run"), "--phase", phase)
    if code or not isinstance(budget, int):
        raise RuntimeError(f"{spec}: exit code {code}, predicted {budget}")
    return budget / peak()


def peak() -> int:
    """Bytes: of the GPU's memory, without one of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def rows() -> list[Row]:
    if not torch.cuda.is_available():
        return [
            Row(f"GPU: {what}", None)
            for what in (
                "tokens a second of the field, share of the memory bandwidth",
                "a GRPO step of 0.5 billion parameters with / without CARL",
                "peak memory, predicted / measured",
            )
        ]
    trainer = {"use_cpu": False, "bf16": True, "max_completion_length": 64}
    trainer["generation_kwargs"] = {"min_new_tokens": 64}
    load = Load(HALF_BILLION, 8192, trainer, PAIRS, RUNS)
    return [*field(load), *steps(load), *memory(load)]


if __name__ == "__main__":
    sys.exit(report(rows()))
