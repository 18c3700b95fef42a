"""Two steps of training: by a script of `carl bundle`, and by TRL alone."""

from __future__ import annotations

import json
import math
import os
import runpy
import sys
from pathlib import Path
from typing import Any

METHODS = ("sft", "grpo")
STEPS = 2
ROWS = [
    {
        "prompt": [{"role": "user", "content": f"{i}+{i + 1}?"}],
        "completion": [{"role": "assistant", "content": str(2 * i + 1)}],
    }
    for i in range(STEPS * 4)
]
COMMON: dict[str, Any] = {
    "max_steps": STEPS,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "logging_steps": 1,
}
"""What both sides set; all else is the default of each."""
SETTINGS: dict[str, dict[str, Any]] = {
    "sft": {**COMMON, "max_length": 64},
    "grpo": {
        **COMMON,
        "num_generations": 4,
        "max_completion_length": 8,
        "steps_per_generation": 1,
    },
}


def write_rows(folder: Path) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def ours(model: Path, rows: Path, folder: Path, method: str) -> int:
    """Render the script of a spec and run its phase; its exit code."""
    from carl_bundle import CarlError, TrainSpec, bundle

    folder.mkdir(parents=True)
    os.chdir(folder)
    spec: dict[str, Any] = {
        "name": "x",
        "method": method,
        "model": {"id": str(model)},
        "data": {"id": str(rows)},
        method: SETTINGS[method],
    }
    if method == "grpo":
        spec["rewards"] = [{"name": "pattern", "pattern": "[a-m]"}]
        spec["carl"] = {"cascade": "fixed", "carl_start": 1}
    try:
        Path("train.py").write_text(bundle(TrainSpec.model_validate(spec)))
    except CarlError as error:
        reason = " ".join(str(error).split())
        print(f"error: {reason}", f"  fix: {error.remedy}", sep="\n", file=sys.stderr)
        return 2
    Path("runs/x").mkdir(parents=True)
    sys.argv = ["train.py", "--phase", method]
    try:
        runpy.run_path("train.py", run_name="__main__")
    except SystemExit as done:
        if done.code:
            return int(done.code)
    lines = Path("runs/x/metrics.jsonl").read_text().splitlines()
    return learned(method, [json.loads(line) for line in lines])


def plain(model: Path, rows: Path, folder: Path, method: str) -> int:
    """The same directory and rows with TRL's trainer and adapters on all layers."""
    import datasets
    import trl
    from peft import LoraConfig
    from transformers import AutoTokenizer

    folder.mkdir(parents=True)
    os.chdir(folder)
    arguments = {
        **SETTINGS[method],
        "output_dir": "out",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "save_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    data = datasets.Dataset.from_list([json.loads(x) for x in rows.open()])
    rewards = () if method == "sft" else (share_of_letters,)
    trainer_class = getattr(trl, f"{method.upper()}Trainer")
    trainer = trainer_class(
        str(model),
        *rewards,
        args=getattr(trl, f"{method.upper()}Config")(**arguments),
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear"),
    )
    trainer.train()
    return learned(method, trainer.state.log_history)


def share_of_letters(completions: list[Any], **rest: Any) -> list[float]:
    """A reward: the share of characters from a to m."""
    texts = [turns[-1]["content"] for turns in completions]
    return [sum("a" <= c <= "m" for c in x) / max(1, len(x)) for x in texts]


def learned(method: str, log: list[dict[str, Any]]) -> int:
    """0 if every step has a finite loss, and examples reach the adapters.

    Raises ValueError if not. GRPO may meet equal rewards, which teach nothing.
    """
    steps = [row for row in log if "loss" in row]
    losses = [row["loss"] for row in steps]
    finite = [x for x in losses if x is not None and math.isfinite(x)]
    if len(losses) != STEPS or finite != losses:
        raise ValueError(f"the losses are {losses}")
    if method == "sft" and not all(row["grad_norm"] > 0 for row in steps):
        raise ValueError("no gradient reaches the adapters")
    return 0
