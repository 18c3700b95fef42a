"""Two processes hold one model between them, by FSDP, here on two CPUs.

accelerate shards on GPUs alone, so the processes are told that their CPU is one: the
script, transformers, TRL and torch's FSDP do what they do there.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from carl_runtime_min.run import read_json
from tests import tiny
from tests.scripts import GROUPS, SMALL, environment, render

pytestmark = pytest.mark.xdist_group("processes")  # they need the cores for themselves

STARTER = """
import os
import runpy
import sys

import accelerate.state
import torch
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule


def prepare_backend(self, *given, **named):
    return "gloo", DistributedType.MULTI_GPU


def set_device(self):
    self.device = torch.device("cpu")


accelerate.state.PartialState._prepare_backend = prepare_backend
accelerate.state.PartialState.set_device = set_device
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    import gc

    sharded = [one for one in gc.get_objects() if isinstance(one, FSDPModule)]
    print("sharded modules:", len(sharded))
"""


def train(folder: Path, model: Path, **more: Any) -> tuple[str, list[dict[str, Any]]]:
    """Run a script on two processes, anew or on: its output, and its steps."""
    script, started = folder / "train.py", ["train.py"]
    if not script.exists():
        folder.mkdir()
        rows = tiny.write_jsonl(folder / "qa.jsonl", tiny.questions(16))
        named = {"name": "shared", "model": str(model), "data": str(rows)}
        text = render(folder, {**named, **more}).read_text()
        assert text.count('"use_cpu": not cuda') == 1
        if "sharding" in more:
            script.write_text(text.replace('"use_cpu": not cuda', '"use_cpu": False'))
    if "sharding" in more:
        (folder / "start.py").write_text(STARTER)
        started = ["start.py", *started]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    ended = subprocess.run(
        [sys.executable, *launcher, *started],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    lines = (folder / "runs/shared/metrics.jsonl").read_text().splitlines()
    return ended.stdout, [row for row in map(json.loads, lines) if "loss" in row]


def losses(steps: list[dict[str, Any]]) -> list[float]:
    return [row["loss"] for row in steps]


def test_a_sharded_model_learns_as_a_whole_one_and_goes_on(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    sft = {**SMALL, "max_steps": 3, "save_steps": 2, "gradient_checkpointing": True}
    given = {"method": "sft", "lora": False, "sft": sft}
    _, whole = train(tmp_path / "whole", tiny_model_dir, **given)
    folder = tmp_path / "parts"
    output, parts = train(folder, tiny_model_dir, **given, sharding="fsdp2")
    assert "sharded modules: 0" not in output
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-3)
    run = folder / "runs/shared"
    saved = load_file(run / "model/model.safetensors")
    expected = load_file(tmp_path / "whole/runs/shared/model/model.safetensors")
    assert {k: v.shape for k, v in saved.items()} == {
        k: v.shape for k, v in expected.items()
    }

    last = read_json(run / "summary.json")["weights_sha256"]
    (run / "phases.json").unlink()
    for path in (run / "model", *run.glob("checkpoints/sft/checkpoint-3")):
        shutil.rmtree(path)
    again, _ = train(folder, tiny_model_dir, **given, sharding="fsdp2")
    assert "continuing after step 2" in again
    assert read_json(run / "summary.json")["weights_sha256"] == last


def test_a_sharded_policy_samples_and_is_scored(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    given = {
        "method": "grpo",
        "grpo": {**SMALL, **GROUPS, "max_steps": 2},
        "rewards": [{"name": "pattern", "pattern": "[a-m]"}],
        "carl": {"cascade": "fixed", "carl_start": 0, "warmup_steps": 1},
        "sharding": "fsdp2",
    }
    output, steps = train(tmp_path / "grpo", tiny_model_dir, **given)
    assert "sharded modules: 0" not in output
    assert all(0.0 <= row["rewards/carl/mean"] <= 1.0 for row in steps)
    adapter = load_file(tmp_path / "grpo/runs/shared/model/adapter_model.safetensors")
    assert all(tensor.ndim == 2 for tensor in adapter.values())
