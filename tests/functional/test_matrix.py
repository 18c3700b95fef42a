"""A sample of `make matrix`: scripts train models of families that differ."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scripts import environment

FAMILIES = """
    llama qwen3 gemma2 gemma3_text cohere2 olmo2 phi3 glm4 gpt2 gpt_neox bloom opt mpt
    falcon qwen3_moe mixtral gpt_oss deepseek_v3 glm4_moe qwen3_next qwen3_5_text mamba
    mamba2 falcon_h1 jamba lfm2 rwkv recurrent_gemma
"""
SHARDS = 2


@pytest.mark.matrix
@pytest.mark.parametrize("shard", range(SHARDS))
def test_scripts_train_models_of_every_family(tmp_path: Path, shard: int) -> None:
    types = FAMILIES.split()[shard::SHARDS]
    command = [sys.executable, "-m", "tools.matrix", "--sides", "ours"]
    command += ["--folder", str(tmp_path), "--only", *types]
    subprocess.run(command, env=environment(), check=True, timeout=600)
    found = {p.stem: json.loads(p.read_text())["runs"] for p in tmp_path.glob("*.json")}
    assert {name.partition(".")[0] for name in found} == set(types)
    for runs in found.values():
        assert runs.keys() == {"instance", "ours/sft", "ours/grpo"}
    bad = {
        (name, run): outcome["reason"] or outcome["word"]
        for name, runs in found.items()
        for run, outcome in runs.items()
        if outcome["word"] != "runs"
    }
    assert not bad
