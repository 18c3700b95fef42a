# SPDX-License-Identifier: MIT
#
# Copyright (c) 2026 The CARL authors
#
# Permission is hereby granted, free of charge, to any person obtaining a copy
# of this software and associated documentation files (the "Software"), to deal
# in the Software without restriction, including without limitation the rights
# to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
# copies of the Software, and to permit persons to whom the Software is
# furnished to do so, subject to the following conditions:
#
# The above copyright notice and this permission notice shall be included in all
# copies or substantial portions of the Software.
#
# THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
# IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
# FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
# AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
# LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
# OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
# SOFTWARE.

# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "accelerate==1.15.0",
#     "datasets==5.2.0",
#     "numpy==2.3.5",
#     "safetensors==0.8.0",
#     "tokenizers==0.23.3",
#     "torch==2.13.0",
#     "transformers==5.23.0",
#     "trl==1.16.0",
# ]
#
# [tool.uv]
# exclude-newer = "2026-11-22"
#
# [tool.carl]
# generator = "0.1.0"
# format = 1
# spec-sha256 = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
# ///
"""SFT, GRPO with coherence-aware rewards (CARL) and an evaluation.

Settings are in CONFIG; the code below only reads it. Departures from plain TRL:

- SFT: after every step the gate sees the token accuracy, and fires when it is high.
- GRPO: once the cascade opens (stage B), R_CARL joins the task rewards. It measures
  how each token was chosen: Phi = 1 - H / ln V of the policy that TRL scores. Groups
  with equal task rewards get damped advantages. A row without a task reward or
  without R_CARL has no advantage.
- GRPO: an infinite reward, or NaN, is an error, or missing (None): `non_finite`.
- Each phase is a process of its own; what it leaves behind is in the run directory.

    python train.py                          on all visible GPUs, or on the CPU
    CUDA_VISIBLE_DEVICES=0 python train.py   on one GPU of several (no torchrun needed)
    python train.py                          again after a crash or code 85: resume
    python train.py --dry-run                print the plan and a row, train nothing
    python train.py --replay grpo:3:5        run recorded steps again, and compare
    python train.py --self-test              check the arithmetic of this machine
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import ctypes
import dataclasses
import fcntl
import functools
import hashlib
import inspect
import json
import math
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from datetime import timedelta
from functools import partial
from importlib.metadata import distributions
from itertools import groupby
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributed.rendezvous import rendezvous
from torch.nn.utils.rnn import pad_sequence

# ---- configuration sha256:3453b9746acc -----------------------------------------------
CONFIG = {
    "name": "carl",
    "run_dir": "runs/carl",
    "seed": 42,
    "environment": {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "PYTHONWARNINGS": "ignore::FutureWarning",
    },
    "model": {
        "id": "builtin",
        "class": "AutoModelForCausalLM",
        "adapter": False,
        "options": {
            "revision": None,
            "dtype": "auto",
            "attn_implementation": None,
        },
        "tokenizer": "builtin",
        "tokenizer_options": {
            "revision": None,
        },
    },
    "sft": {
        "data": {
            "id": "builtin",
            "revision": None,
            "config": None,
            "split": "train",
            "columns": {},
            "limit": None,
            "system_prompt": None,
            "part": [
                None,
                None,
            ],
        },
        "bf16": False,
        "non_finite": "stop",
        "result": "checkpoints/sft/model",
        "rows": {
            "part": "sft",
            "seed": 42,
            "count": 25600,
        },
        "trainer": {
            "max_steps": 400,
            "learning_rate": 0.002,
            "per_device_train_batch_size": 64,
            "gradient_accumulation_steps": 1,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 20,
            "weight_decay": 0.0,
            "max_grad_norm": 1.0,
            "max_length": 128,
            "logging_steps": 1,
            "save_steps": 100,
            "save_total_limit": 2,
            "gradient_checkpointing": False,
            "save_strategy": "steps",
            "report_to": "none",
            "disable_tqdm": True,
            "seed": 42,
        },
        "gate": {
            "threshold": 0.99,
            "window": 5,
            "min_above": 3,
        },
        "metric": "mean_token_accuracy",
        "stop": True,
    },
    "grpo": {
        "data": {
            "id": "builtin",
            "revision": None,
            "config": None,
            "split": "train",
            "columns": {
                "prompt": "prompt",
                "answer": "answer",
            },
            "limit": None,
            "system_prompt": None,
            "part": [
                None,
                None,
            ],
        },
        "bf16": False,
        "non_finite": "stop",
        "result": "model",
        "rows": {
            "part": "grpo",
            "seed": 42,
            "count": 1280,
        },
        "trainer": {
            "max_steps": 80,
            "learning_rate": 0.0002,
            "per_device_train_batch_size": 128,
            "gradient_accumulation_steps": 1,
            "lr_scheduler_type": "constant",
            "warmup_steps": 0,
            "weight_decay": 0.0,
            "max_grad_norm": 1.0,
            "logging_steps": 1,
            "save_steps": 40,
            "save_total_limit": 2,
            "gradient_checkpointing": False,
            "num_generations": 8,
            "max_completion_length": 8,
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": 0,
            "beta": 0.0,
            "num_iterations": 1,
            "steps_per_generation": 1,
            "mask_truncated_completions": False,
            "loss_type": "dapo",
            "scale_rewards": "group",
            "multi_objective_aggregation": "sum_then_normalize",
            "save_strategy": "steps",
            "report_to": "none",
            "disable_tqdm": True,
            "seed": 42,
            "reward_weights": [
                1.0,
                0.5,
            ],
        },
        "samples_every": 10,
        "maximum": 1.0,
        "rewards": [
            {
                "name": "exact_answer",
                "extract": None,
            },
        ],
        "carl": {
            "weights": [
                0.5,
                0.3,
                0.2,
            ],
            "tie_weight": 0.5,
        },
        "cascade": {
            "carl_weight": 0.5,
            "warmup_steps": 10,
            "carl_start": None,
            "open_by": None,
        },
    },
    "eval": {
        "data": {
            "id": "builtin",
            "revision": None,
            "config": None,
            "split": "train",
            "columns": {
                "prompt": "prompt",
                "answer": "answer",
            },
            "limit": 1000,
            "system_prompt": None,
            "part": [
                None,
                None,
            ],
        },
        "temperature": 1.0,
        "batch_size": 250,
        "max_new_tokens": 8,
        "item_pass": 1.0,
        "alpha": 0.05,
        "weights": [
            1.0,
        ],
        "rows": {
            "part": "eval",
            "seed": 42,
            "count": 1000,
        },
    },
    "self_test": {
        "vocab_size": 5,
        "token_ids": [
            [
                2,
                0,
                4,
                0,
            ],
            [
                0,
                2,
                3,
                4,
            ],
        ],
        "mask": [
            [
                True,
                True,
                True,
                True,
            ],
            [
                True,
                True,
                True,
                False,
            ],
        ],
        "logits": [
            [
                [
                    0.0,
                    0.21,
                    0.227,
                    0.035,
                    -0.189,
                ],
                [
                    -0.959,
                    -0.279,
                    0.657,
                    0.989,
                    0.412,
                ],
                [
                    -2.1760001,
                    -4.0,
                    -2.1459999,
                    1.681,
                    3.9619999,
                ],
                [
                    0.325,
                    -0.144,
                    -0.481,
                    -0.375,
                    0.075,
                ],
            ],
            [
                [
                    5.4780002,
                    5.02,
                    -0.053,
                    -5.0770001,
                    -5.4330001,
                ],
                [
                    -0.265,
                    1.525,
                    1.913,
                    0.542,
                    -1.327,
                ],
                [
                    -1.482,
                    -0.606,
                    0.827,
                    1.5,
                    0.794,
                ],
                [
                    -1.285,
                    -2.9749999,
                    -1.931,
                    0.889,
                    2.891,
                ],
            ],
        ],
        "entropy": [
            [
                1.5982838,
                1.4371153,
                0.3388986,
                1.5654418,
            ],
            [
                0.6832952,
                1.2070398,
                1.2827522,
                0.4853659,
            ],
        ],
        "log_probs": [
            [
                -1.4504544,
                -2.9423699,
                -0.1015766,
                -1.2082599,
            ],
            [
                -0.4925927,
                -0.7346236,
                -0.7775828,
                -0.1495483,
            ],
        ],
        "phi": [
            [
                0.0069305,
                0.1070701,
                0.7894304,
                0.0273363,
            ],
            [
                0.5754448,
                0.250024,
                0.2029813,
                0.6984252,
            ],
        ],
        "reward": [
            0.5668069,
            0.6088258,
        ],
    },
    "spec": {},
}


# ---- carl_runtime_min/errors.py sha256:16be10f06aa1 ----------------------------------
class CarlError(Exception):
    """What is wrong, in one sentence; `remedy` says what to do about it."""

    exit_code = 70

    def __init__(self, message: str, *, remedy: str = "", exit_code: int = 0) -> None:
        super().__init__(message)
        self.remedy, self.exit_code = remedy, exit_code or self.exit_code


class UsageError(CarlError):
    """The command line, the spec or the data cannot be used as given."""

    exit_code = 2


# ---- carl_runtime_min/strict_json.py sha256:e8388298db28 -----------------------------
def json_value(value: Any) -> Any:
    """`value` with null for what JSON cannot hold: NaN and the infinities."""
    return json.loads(json.dumps(value), parse_constant=lambda name: None)


# ---- carl_runtime_min/run.py sha256:5c0562a1d62d -------------------------------------
STATE = "trainer_state.json"  # the last file of a checkpoint: beside it, all is whole


def sync(paths: Iterable[Path]) -> None:
    """Wait until files and folders are on the disk, as a power cut would find them."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Replace `path` in one step: readers see the old file or the new, never half."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        draft.write_text(json.dumps(json_value(value), indent=2))
        sync([draft])
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, an empty one if there is no such file."""
    return json.loads(path.read_bytes()) if path.is_file() else {}


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def data_of(config: dict[str, Any], phases: Iterable[str]) -> list[dict[str, Any]]:
    """The settings of all the data that phases use: `id`, `revision` and more."""
    blocks = [config[phase] for phase in phases]
    blocks += [block["validation"] for block in blocks if "validation" in block]
    blocks += [source for block in blocks for source in block.get("mix", ())]
    return [block["data"] for block in blocks if "data" in block]


def spec_sha256(config: dict[str, Any]) -> str:
    spec = json.dumps(config["spec"], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(spec.encode()).hexdigest()


def folder_sha256(folder: Path) -> str:
    """Digest of the names and the digests of the files in `folder`."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    named = [[path.name, sha256(path)] for path in files]
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()


def weights_sha256(folder: Path) -> str:
    """Digest of the weight file in `folder`; of several, of their digests in order."""
    digests = [sha256(path) for path in sorted(folder.glob("*.safetensors"))]
    joined = hashlib.sha256("".join(digests).encode()).hexdigest()
    return digests[0] if len(digests) == 1 else joined


def checkpoints(folder: Path) -> dict[Path, dict[str, Any]]:
    """The checkpoints in `folder` that are whole, each with its trainer's state."""
    texts = {path.parent: path.read_text() for path in folder.glob(f"*/{STATE}")}
    return {path: json.loads(t) for path, t in texts.items() if t.endswith("\n}\n")}


def chain_link(before: str, record: dict[str, Any]) -> str:
    """The next link of a chain: a digest of the one before it and of a record."""
    text = json.dumps(record, sort_keys=True)
    return hashlib.sha256(f"{before}{text}".encode()).hexdigest()


class Run:
    """The directory of one run, as one phase sees it. Only the first rank writes."""

    until: int | None = None  # a replay ends after this step

    def __init__(self, path: Path, phase: str, resume: str) -> None:
        self.path, self.phase, self.resume = path, phase, resume
        self.script = read_json(path / "run.json").get("script_sha256")
        self.chains: dict[str, str] = {}
        self.checkpoints = path / "checkpoints" / phase
        self.first = int(os.environ.get("RANK", 0)) == 0

    def say(self, *words: object) -> None:
        if self.first:
            print(*words, flush=True)

    def append(self, name: str, record: dict[str, Any]) -> None:
        """Add a line to `<name>.jsonl`, bound to all lines before it."""
        if self.first:
            line = json_value({"phase": self.phase, **record})
            self.chains.setdefault(name, self.last(name))
            line["chain"] = self.chains[name] = chain_link(self.chains[name], line)
            with (self.path / f"{name}.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")

    def last(self, name: str) -> str:
        """The end of a chain of lines, which begins with the first script's digest."""
        run = read_json(self.path / "run.json")
        script = run.get("changes", [run])[0].get("script_sha256")
        return str([{"chain": script}, *self.records(name)][-1]["chain"])

    def anchor(self) -> None:
        """Note the ends of all chains: lines up to there can't be cut off unseen."""
        names = sorted(path.stem for path in self.path.glob("*.jsonl"))
        ends = {name: self.chains.get(name) or self.last(name) for name in names}
        write_json(self.path / "records.json", ends)

    def records(self, name: str) -> list[dict[str, Any]]:
        """The lines of `<name>.jsonl`; one that a crash tore is left out."""
        path = self.path / f"{name}.jsonl"
        lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
        return [json.loads(line) for line in lines]

    def summarise(self, file: str = "summary", **facts: Any) -> None:
        """Add `facts` to summary.json, or to another file."""
        if self.first:
            path = self.path / f"{file}.json"
            write_json(path, read_json(path) | facts)

    def start(self) -> tuple[Path | None, dict[str, Any]]:
        """The checkpoint to continue from and its state; later ones are forgotten."""
        states = checkpoints(self.checkpoints)
        last = max(states, key=lambda path: states[path]["global_step"], default=None)
        chosen = next((p for p in states if p == Path(self.resume).resolve()), last)
        state = states[chosen] if chosen else {"global_step": 0}
        if self.first:
            self.rewind(state["global_step"], states)
        return chosen, state

    def clean(self, keep: Collection[Path]) -> None:
        """Remove every checkpoint of this phase but those in `keep`."""
        for path in self.checkpoints.glob("checkpoint-*"):
            if path not in keep:
                (path / STATE).unlink(missing_ok=True)  # from now on it is not whole
                shutil.rmtree(path)

    def rotate(self, limit: int | None, best: str | None) -> None:
        """Of checkpoints that are all whole, keep the last ones and the best one."""
        whole = list(self.checkpoints.glob("checkpoint-*"))
        whole.sort(key=lambda path: int(path.name.split("-")[1]))
        spare = [path for path in whole[:-1] if path != Path(best or "")]
        gone = spare[: max(0, len(whole) - (limit or len(whole)))]
        self.clean([path for path in whole if path not in gone])

    def rewind(self, step: int, states: dict[Path, dict[str, Any]]) -> None:
        """Remove what this phase did after `step`, and what is not whole."""
        self.clean([p for p, state in states.items() if state["global_step"] <= step])
        for path in self.path.glob("*.jsonl"):
            kept = [
                json.dumps(record) + "\n"
                for record in self.records(path.stem)
                if record["phase"] != self.phase or record["step"] <= step
            ]
            path.with_suffix(".draft").write_text("".join(kept))
            path.with_suffix(".draft").replace(path)
        self.anchor()


# ---- carl_runtime_min/field.py sha256:a5ec44a75c48 -----------------------------------
CHUNK = 1 << 20  # logits worked on at once: two float32 scratch buffers of 4 MB


@torch.no_grad()
def token_field(
    logits: Tensor,
    token_ids: Tensor,
    temperature: float = 1.0,
    overwrite: bool = False,
) -> tuple[Tensor, Tensor]:
    """Entropy H and log p of each token under softmax(logits / temperature), in nats.

    logits [..., V], where row i predicts token i, and token_ids [...] give (H, log p),
    float32 [...] each; NaN where a row holds NaN or +inf, or nothing but -inf. With
    `overwrite`, logits in float32 hold no more of use afterwards, and are not copied.
    """
    if not temperature > 0:
        raise UsageError(f"temperature must be positive, not {temperature}")
    vocab = logits.shape[-1]
    rows, ids = logits.reshape(-1, vocab), token_ids.reshape(-1, 1)  # [N, V], [N, 1]
    n = min(len(rows), CHUNK // vocab) or 1
    new = partial(torch.empty, dtype=torch.float32, device=logits.device)
    entropy, log_probs = new(len(rows)), new(len(rows))
    owned = overwrite and logits.dtype == torch.float32
    scratch = new(1 if owned else 2, n, vocab)
    for start in range(0, len(rows), n):
        here = slice(start, start + n)
        z, e = scratch[-1, : len(rows[here])], scratch[0, : len(rows[here])]  # [n, V]
        z = rows[here] if owned else z.copy_(rows[here])
        z -= z.amax(-1, keepdim=True)
        if temperature != 1:
            z /= temperature  # after m is off: a large logit has few digits to lose
        chosen = z.gather(-1, ids[here]).squeeze(-1)  # [n]
        z.clamp_(min=-200)  # e^-200 is 0 in float32, and 0 * -200 is 0: 0 * -inf is not
        s = torch.exp(z, out=e).sum(-1)  # [n]
        t = e.mul_(z).sum(-1)  # [n]
        entropy[here] = (s.log() - t / s).clamp(max=math.log(vocab))
        log_probs[here] = chosen - s.log()
    return entropy.reshape(token_ids.shape), log_probs.reshape(token_ids.shape)


def order_parameter(entropy: Tensor, vocab_size: int) -> Tensor:
    """Phi = 1 - H / ln V in [0, 1], float64 [...]; NaN where H is not finite.

    Thresholds of the reward sit at 0.5 and 0.7: every caller takes Phi from here.
    """
    if vocab_size < 2:
        raise UsageError(f"Phi needs at least two tokens to choose from: {vocab_size}")
    phi = 1 - entropy.double() / math.log(vocab_size)
    return phi.clamp(0, 1).where(entropy.isfinite(), math.nan)


# ---- carl_runtime_min/rewards.py sha256:e1e0a5a69547 ---------------------------------
DELTA = 0.03  # a change of Phi larger than this is a transition
MAX_SCALE = 15  # blocks of at most 2^15 tokens


class Components(NamedTuple):
    """Each [B], float64, in [0, 1]; NaN where a token of the row is not finite."""

    coherence: Tensor
    cloud: Tensor
    discontinuity: Tensor


def carl_reward(
    phi: Tensor,
    log_probs: Tensor,
    mask: Tensor,
    weights: Sequence[float] = (0.5, 0.3, 0.2),
    junctions: Tensor | None = None,
) -> Tensor:
    """R_CARL of each completion, [B] float64, `weights` in the order of Components.

    0 for a completion without tokens, NaN for one with a value that is not finite.
    """
    return weigh(coherence_components(phi, log_probs, mask, junctions), mask, weights)


def weigh(parts: Components, mask: Tensor, weights: Sequence[float]) -> Tensor:
    """The weighted sum of components, [B] each; `mask` [B, T] is true on tokens."""
    a, b, c = weights
    reward = a * parts.coherence + b * parts.cloud + c * parts.discontinuity
    return reward.where(mask.bool().any(-1), 0.0)


def coherence_components(
    phi: Tensor, log_probs: Tensor, mask: Tensor, junctions: Tensor | None = None
) -> Components:
    """The components of completions, all arguments [B, T].

    `mask` is true on a completion's tokens, which come first in the row; padding may
    hold anything. `junctions` is true at t where tokens were removed between t-1 and t:
    Phi does not jump there. UsageError: shapes differ, or the mask is not right-padded.
    """
    if not phi.shape == log_probs.shape == mask.shape or phi.dim() != 2:
        raise UsageError("phi, log_probs and mask must share one shape [B, T]")
    mask = mask.bool()
    if (mask[:, 1:] & ~mask[:, :-1]).any():  # the host waits for the device, once
        remedy = "move the policy's tokens to the front of their rows"
        raise UsageError("the mask is not right-padded", remedy=remedy)
    phi, log_probs = (x.where(mask, 0.0).double() for x in (phi, log_probs))
    length = mask.sum(-1)  # [B]
    linked = mask[:, 1:]  # [B, T - 1]
    if junctions is not None:
        linked = linked & ~junctions[:, 1:].bool()
    c = scale_coherence(phi, length)  # [B, scales]
    scale = torch.arange(c.shape[-1], device=c.device, dtype=c.dtype)
    weight = 2 ** (scale / 2) * ~c.isnan()
    coherence = (weight * c.nan_to_num()).sum(-1) / weight.sum(-1)
    parts = Components(
        coherence=coherence.nan_to_num(nan=0.5),
        cloud=(log_probs.exp() * phi).sum(-1) / length.clamp(min=1),
        discontinuity=transition_worth(phi, linked).nan_to_num(nan=0.5),
    )
    broken = ~(phi.sum(-1) + log_probs.sum(-1)).isfinite()  # [B]
    return Components(*(part.masked_fill(broken, math.nan) for part in parts))


def scale_coherence(phi: Tensor, length: Tensor) -> Tensor:
    """c_j over blocks of 2^j tokens: [B, T], [B] -> [B, scales], NaN without a block.

    c_j = 1 - mean population standard deviation of Phi in the complete blocks. Two
    neighbours merge into a block of the next scale by Chan's update.
    """
    mean, variance = phi, torch.zeros_like(phi)  # of each block
    c = [length.double() / length]  # one token does not deviate; 0/0 is NaN
    for j in range(1, min(phi.shape[-1].bit_length(), MAX_SCALE + 1)):
        n, blocks = mean.shape[-1] // 2 * 2, length // 2**j  # blocks: [B], complete
        a, b = mean[:, 0:n:2], mean[:, 1:n:2]  # [B, n / 2] each
        apart = (a - b) / 2
        variance = (variance[:, 0:n:2] + variance[:, 1:n:2]) / 2 + apart**2
        mean = (a + b) / 2
        complete = torch.arange(mean.shape[-1], device=phi.device) < blocks[:, None]
        spread = (variance.sqrt() * complete).sum(-1) / blocks  # [B]
        c.append((1 - spread).clamp(min=0))
    return torch.stack(c, -1)


def transition_worth(phi: Tensor, linked: Tensor) -> Tensor:
    """Mean worth of the jumps, NaN without any: [B, T], [B, T - 1] -> [B]."""
    before, change = phi[:, :-1], phi.diff()
    rises, falls = linked & (change > DELTA), linked & (change < -DELTA)
    low, high = before < 0.5, before > 0.7

    def count(places: Tensor) -> Tensor:
        return places.sum(-1).double()  # [B]

    worth = 0.8 * count(rises & low) + 0.3 * count(rises & ~low)
    worth += 0.2 * count(falls & high) + 0.5 * count(falls & ~high)
    return worth / count(rises | falls)


# ---- carl_runtime_min/gate.py sha256:58756350ce1e ------------------------------------
@dataclasses.dataclass(kw_only=True)
class Gate:
    """Fires once, at the first value at which it is `crossed`."""

    values: list[float] = dataclasses.field(default_factory=list)
    fired: bool = False
    step: int | None = None  # at which it fired
    peak_entropy: float | None = None  # nats, the highest until then

    def check(
        self, value: float | None, entropy: float | None = None, step: int | None = None
    ) -> bool:
        """Take in one value; True at the one observation that fires the gate.

        None and what is not finite are no observations. `step`: default, their number.
        """
        if self.fired or value is None or not math.isfinite(value):
            return False
        self.values.append(float(value))
        if entropy is not None and math.isfinite(entropy):
            self.peak_entropy = max(entropy, self.peak_entropy or entropy)
        self.fired = self.crossed()
        if self.fired:
            self.step = len(self.values) if step is None else step
        return self.fired

    def crossed(self) -> bool:
        """Whether the values so far fire the gate."""
        raise NotImplementedError


@dataclasses.dataclass
class PhaseTransitionGate(Gate):
    """Fires when `min_above` of the last `window` values reach `threshold`."""

    threshold: float = 0.99
    window: int = 5
    min_above: int = 3

    def __post_init__(self) -> None:
        if not (math.isfinite(self.threshold) and 1 <= self.min_above <= self.window):
            raise UsageError(
                "a gate needs a finite threshold, 1 <= min_above <= window"
            )

    def crossed(self) -> bool:
        last = self.values[-self.window :]
        return sum(value >= self.threshold for value in last) >= self.min_above


def percentile(values: list[float], q: float) -> float:
    """The q-th quantile (q in [0, 1]) of `values`, linear between order statistics."""
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    below, above = ordered[math.floor(position)], ordered[math.ceil(position)]
    return below + position % 1 * (above - below)


# ---- carl_runtime_min/cascade.py sha256:42394d26a856 ---------------------------------
LAST = 10  # observations that have to agree


@dataclasses.dataclass
class Cascade:
    """Decides when CARL joins the task rewards, and with what weight.

    Fixed with a `carl_start`. Else adaptive: it opens when the last 10 observations all
    exceed the 60th percentile of those before ("rising"), or all come within a tenth of
    `maximum` ("solved"). One generation's metric decides from the next one on.
    """

    carl_weight: float = 0.5  # of R_CARL after the ramp
    warmup_steps: int = 10  # of the linear ramp
    carl_start: int | None = None  # first step of stage B
    open_by: int | None = None  # first step of stage B at the latest
    maximum: float | None = None  # of the weighted task rewards' sum, if bounded
    history: list[float] = dataclasses.field(default_factory=list)
    threshold: float | None = None  # what the last 10 have or had to exceed
    reason: str | None = None  # "fixed", "rising", "solved" or "open_by"
    opened_at: int | None = None  # the step of the first generation in stage B

    def __post_init__(self) -> None:
        if not 0 < self.carl_weight < math.inf or self.warmup_steps < 1:
            raise UsageError("a cascade needs a positive carl_weight and warmup_steps")

    @property
    def stage(self) -> str:
        """ "A" (task rewards) or "B" (task rewards and CARL)."""
        return "A" if self.opened_at is None else "B"

    def begin(self, step: int) -> None:
        """A generation starts at `step`: what was decided before takes effect."""
        if self.carl_start is not None:
            self.reason = "fixed" if step >= self.carl_start else None
        elif self.open_by is not None and step >= self.open_by:
            self.reason = self.reason or "open_by"
        if self.reason and self.opened_at is None:
            self.opened_at = step

    def observe(self, metric: float | None, step: int) -> None:
        """Take in one generation's mean weighted task reward, before its CARL reward.

        It decides from the next generation on. None and what is not finite are no
        observations.
        """
        self.begin(step)
        if self.stage == "B" or self.carl_start is not None:
            return
        if metric is None or not math.isfinite(metric):
            return
        self.history.append(float(metric))
        earlier, last = self.history[:-LAST], self.history[-LAST:]
        if len(earlier) >= LAST:
            self.threshold = percentile(earlier, 0.6)
            if min(last) > self.threshold:
                self.reason = "rising"
        if self.maximum is not None and len(last) >= LAST:
            close = self.maximum - 0.1 * abs(self.maximum)
            if min(last) >= close:
                self.reason = "solved"

    def weight(self, step: int) -> float:
        """Weight of R_CARL: 0 in stage A, then a linear ramp, then `carl_weight`."""
        if self.opened_at is None:
            return 0.0
        done = (step - self.opened_at + 1) / self.warmup_steps
        return self.carl_weight * min(1.0, max(0.0, done))


def damp_ties(
    advantages: Tensor, task_rewards: Tensor, num_generations: int, factor: float
) -> Tensor:
    """Multiply the advantages [B] of groups whose task rewards [B, F] are all equal.

    Normalisation within a group gives CARL full-size advantages there, whatever its
    weight. The rows of a group are adjacent; NaN is no reward and takes no part.
    """
    groups = task_rewards.reshape(-1, num_generations, task_rewards.shape[-1])
    highest = groups.nan_to_num(nan=-math.inf).amax(1)  # [groups, F]
    lowest = groups.nan_to_num(nan=math.inf).amin(1)
    tied = (highest <= lowest) | torch.isclose(highest, lowest, rtol=1e-6)
    tied_rows = tied.all(1).repeat_interleave(num_generations)  # [B]
    return advantages.where(~tied_rows, advantages * factor)


# ---- carl_runtime_min/verdict.py sha256:12332bf7fc9b ---------------------------------
def binomial_tail(k: int, n: int, p: float) -> float:
    """P(X >= k) for X ~ Binomial(n, p), with 0 < p < 1."""

    def log_probability(i: int) -> float:
        choose = math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1)
        return choose + i * math.log(p) + (n - i) * math.log1p(-p)

    return min(1.0, math.fsum(math.exp(log_probability(i)) for i in range(k, n + 1)))


def mcnemar(gained: int, lost: int) -> float:
    """Exact one-sided McNemar test: p of "more items gained than lost"."""
    return binomial_tail(gained, gained + lost, 0.5)


def paired_bootstrap(
    before: Sequence[float], after: Sequence[float], alpha: float, seed: int
) -> tuple[float, float]:
    """Percentile interval, of coverage 1 - alpha, of mean(after) - mean(before)."""
    changes = [b - a for a, b in zip(before, after, strict=True)]
    draw, n, resamples = random.Random(seed), len(changes), 2000
    means = sorted(fmean(draw.choices(changes, k=n)) for _ in range(resamples))
    cut = math.floor(resamples * alpha / 2)
    return means[cut], means[-1 - cut]


# ---- carl_runtime_min/tasks.py sha256:48f54c0f25df -----------------------------------
def completion_text(completion: str | list[dict[str, Any]]) -> str:
    """The text of a plain completion, or of the last message of a conversation."""
    if isinstance(completion, str):
        return completion
    content = completion[-1].get("content") if completion else ""
    return content if isinstance(content, str) else ""


class TaskReward:
    """A scorer of one completion, as a TRL reward function over a batch.

    `scorer` takes the text, its number of tokens and the row's `column`; None is no
    score.
    """

    def __init__(
        self, name: str, scorer: Callable[..., float | None], column: str = "prompts"
    ) -> None:
        self.__name__, self.scorer, self.column = name, scorer, column

    def __call__(self, **batch: Any) -> list[float | None]:
        if self.column not in batch:
            message = f"reward {self.__name__}: the data has no column {self.column!r}"
            remedy = f"set data.columns.{self.column} to the name of your column"
            raise UsageError(message, remedy=remedy)
        texts = map(completion_text, batch["completions"])
        counts = map(len, batch["completion_ids"])
        return list(map(self.scorer, texts, counts, batch[self.column]))


def exact_answer_reward(options: dict[str, Any]) -> TaskReward:
    """1 if the text, or what `extract` finds last in it, equals the row's answer."""
    extract = options["extract"] and re.compile(options["extract"], re.DOTALL)

    def scorer(text: str, count: int, answer: Any) -> float | None:
        if extract:
            found = [""] + [hit[extract.groups and 1] for hit in extract.finditer(text)]
            text = found[-1] or ""
        return None if answer is None else float(text.strip() == str(answer).strip())

    return TaskReward("exact_answer", scorer, "answer")


# ---- carl_runtime_min/builtin.py sha256:9d752fa1e4c5 ---------------------------------
DIGITS = "0123456789"
SPECIAL = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'assistant' %}"
    "<|assistant|>{% generation %}{{ m['content'] }}<|end|>{% endgeneration %}"
    "{% else %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def builtin_tokenizer() -> Any:
    """One token per character, plus the marks of a conversation."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = " abcdefghijklmnopqrstuvwxyz.,:;?!+-*/=()<>"
    vocabulary = {token: i for i, token in enumerate((*SPECIAL, *DIGITS, *letters))}
    characters = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    characters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    characters.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=characters,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        extra_special_tokens=list(SPECIAL[2:]),
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def builtin_model(tokenizer: Any, seed: int) -> Any:
    """A Qwen3-style transformer with about a million random parameters."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config)


def builtin_rows(part: str, seed: int, count: int) -> Any:
    """`count` rows of {prompt, answer}: six digits, and the same digits reversed.

    The parts "sft", "grpo" and "eval" never share a prompt: a prompt belongs to the
    part that the sum of its digits, modulo 3, names.
    """
    from datasets import Dataset

    parts = ("sft", "grpo", "eval")
    draw = random.Random(f"{part} {seed}")
    prompts: list[str] = []
    while len(prompts) < count:
        digits = [draw.randrange(10) for _ in range(6)]
        if sum(digits) % 3 == parts.index(part):
            prompts.append("".join(map(str, digits)))
    rows = [{"prompt": prompt, "answer": prompt[::-1]} for prompt in prompts]
    return Dataset.from_list(rows)


# ---- carl_runtime_min/data.py sha256:a819dd4c552c ------------------------------------
QUESTIONS = ("prompt", "messages")
ANSWERS = ("completion", "chosen", "rejected")
IMAGES = ("image", "images")


def is_text(value: Any) -> bool:
    """Whether `value` is text, or a list of messages that have roles."""
    turns = value if isinstance(value, list) else []
    own = [isinstance(turn, dict) and "role" in turn for turn in turns]
    return isinstance(value, str) or (bool(own) and all(own))


def tools_of(row: dict[str, Any]) -> Any:
    """The tools that a row offers, None if it has none: a list, or that as JSON."""
    tools = row.get("tools")
    return (json.loads(tools) if isinstance(tools, str) else tools) or None


def shaped_row(row: Any, number: int, source: Any, tokenizer: Any) -> dict[str, Any]:
    """Our columns of a row, plain text as conversations; rows are counted from 1.

    Text stays text for a tokenizer without a chat template. A prompt that is a whole
    conversation loses its last answer.
    """
    where, chat = f"{source['id']}, row {number}", bool(tokenizer.chat_template)
    system = [{"role": "system", "content": source["system_prompt"]}]

    def shaped(column: str, text: Any) -> Any:
        if column in ANSWERS and isinstance(text, int | float):
            text = str(text)
        if not is_text(text):
            remedy = f"{source['columns'][column]!r} needs text or [{{role, content}}]"
            raise UsageError(f"{where}: a {column} is {text!r}", remedy=remedy)
        if not chat and isinstance(text, list):
            remedy = "use a chat model or its tokenizer (model.tokenizer), or text"
            raise UsageError(f"{where} needs a chat template", remedy=remedy)
        if not chat:
            return text
        if isinstance(text, str):
            role = "assistant" if column in ANSWERS else "user"
            text = [{"role": role, "content": text}]
        if column == "prompt" and text[-1]["role"] == "assistant":
            text = text[:-1]
        if not text:
            raise UsageError(f"{where}: a prompt is an answer", remedy="mend the row")
        own = column in ANSWERS or text[0]["role"] == "system"
        return text if own or not source["system_prompt"] else system + text

    values = {column: row[theirs] for column, theirs in source["columns"].items()}
    try:
        tools_of(values)
    except ValueError as error:
        remedy = "give a list of tools, or such a list as JSON"
        raise UsageError(f"{where}: tools: {error}", remedy=remedy) from error
    texts = QUESTIONS + ANSWERS
    return {c: shaped(c, v) if c in texts else v for c, v in values.items()}


def prepared(rows: Any, source: dict[str, Any], tokenizer: Any) -> Any:
    """The rows of the spec with our columns; UsageError names the column or the row."""
    columns, name = source["columns"], source["id"]
    absent = [theirs for theirs in columns.values() if theirs not in rows.column_names]
    kept = range(len(rows))[slice(*source["part"])][: source["limit"]]
    if absent or not kept:
        reason = f"no column {absent[0]!r}" if absent else "too few rows"
        remedy = f"map columns under data.columns; there are {rows.column_names}"
        remedy = remedy if absent else "add rows, or lower eval.items"
        raise UsageError(f"{name}: {reason}", remedy=remedy)

    def ours(row: dict[str, Any], place: int) -> dict[str, Any]:
        return shaped_row(row, kept[place] + 1, source, tokenizer)

    others = {*rows.column_names} - {*columns}
    unread = sorted({*ANSWERS, *IMAGES} & others)  # by us; TRL reads them
    return rows.select(kept).map(ours, with_indices=True, remove_columns=unread)


def sft_columns(names: list[str], source: dict[str, Any]) -> dict[str, str]:
    """Ours and theirs: `messages`, or `prompt` with `completion` (else `answer`)."""
    columns = {**{name: name for name in names}, **source["columns"]}
    needed = ["prompt", "completion"]
    if "messages" in columns and "prompt" not in source["columns"]:
        needed = ["messages"]
    columns.setdefault("completion", columns.get("answer", "completion"))
    needed += ["tools"] * ("tools" in columns)
    needed += [name for name in IMAGES if name in source["columns"]]
    return {name: columns.get(name, name) for name in needed}


def sft_rows(rows: Any, source: dict[str, Any], tokenizer: Any) -> Any:
    """Rows for SFT, with the columns that it learns from."""
    columns, name = sft_columns(rows.column_names, source), source["id"]
    if "tools" in columns and "tools" not in str(tokenizer.chat_template):
        remedy = "give a model.chat_template that does, or leave the column out"
        raise UsageError(f"{name}: the chat template shows no 'tools'", remedy=remedy)
    rows = prepared(rows, {**source, "columns": columns}, tokenizer)
    return rows.select_columns(list(columns))


# ---- carl_runtime_min/models.py sha256:63815ddd28ff ----------------------------------
def load_model(source: dict[str, Any]) -> Any:
    """The model at its pinned revision; `auto` is bfloat16 for adapters on CUDA."""
    import transformers

    options, half = source["options"], source["adapter"] and torch.cuda.is_available()
    if options["dtype"] == "auto":
        options = {**options, "dtype": "bfloat16" if half else "float32"}
    kind = getattr(transformers, source["class"])  # another would lose weights
    options = {**options, "output_loading_info": True}
    model, found = kind.from_pretrained(source["id"], **options)
    if found["missing_keys"]:
        reason = f"{source['id']} has no weights for {min(found['missing_keys'])}"
        raise UsageError(reason, remedy="choose a whole checkpoint of a language model")
    if not hasattr(model, "prepare_inputs_for_generation"):
        reason = f"{source['class']} does not generate token by token"
        raise UsageError(reason, remedy="choose a causal language model")
    return model


# ---- carl_runtime_min/supervisor.py sha256:a63e1024c53d ------------------------------
PR_SET_PDEATHSIG = 1  # prctl(2)
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def supervise(command: list[str], path: Path, lock: int, processes: int) -> int:
    """Run one phase in a session of its own; return the exit code that it wrote.

    The first signal asks it, by the file `stop`, to checkpoint and end; the second ends
    it. Several processes run under torchrun. The child holds the descriptor `lock`.
    """
    launcher, report = [sys.executable], path / "exit.json"
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone"]
        launcher += ["--nproc_per_node", str(processes), "--signals_to_handle=SIGUSR2"]
    report.unlink(missing_ok=True)
    received = []

    def ask(number: int, frame: Any) -> None:
        received.append(number)
        (path / "stop").touch()
        if len(received) > 1:  # a signal that ends all, and that torchrun passes on
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGUSR2)

    # The child inherits the mask: what a scheduler sends to every process is for us.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    child = subprocess.Popen(
        launcher + command,
        env={**os.environ, "CARL_SUPERVISOR": str(os.getpid())},
        start_new_session=True,
        pass_fds=(lock,),
    )
    for number in STOP_SIGNALS:
        signal.signal(number, ask)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    status = child.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # whatever the phase left behind
    code = read_json(report).get("code", 4 if status == 4 else None)  # 4: a full disk
    if code is None:
        killed = " (killed: out of memory?)" * (status == -signal.SIGKILL)
        raise CarlError(
            f"the phase ended with status {status}{killed}",
            remedy="run the same command again: it goes on from the last checkpoint",
            exit_code=130 if received else 70,
        )
    return int(code)


def accept_signals(path: Path) -> None:
    """In a phase: what it starts is ended by a signal, and it goes on.

    Without a supervisor, as below a launcher, it is asked to stop by one. What a
    launcher has started dies with it.
    """
    alone = "CARL_SUPERVISOR" not in os.environ

    def ask(number: int, frame: Any) -> None:
        with contextlib.suppress(OSError):
            if alone:
                (path / "stop").touch()

    for number in STOP_SIGNALS:
        signal.signal(number, ask)
    obey = functools.partial(signal.signal, signal.SIGTERM, signal.SIG_DFL)
    if "RANK" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.register_at_fork(after_in_child=obey)  # as multiprocessing ends its pools
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def asked_to_stop(path: Path) -> bool:
    """Whether the supervisor of the run in `path` was told to stop, or is gone."""
    try:
        os.kill(int(os.environ.get("CARL_SUPERVISOR", os.getpid())), 0)
    except OSError:
        return True
    return (path / "stop").exists()


# ---- carl_runtime_min/guards.py sha256:88489e85d0e4 ----------------------------------
class FiniteSteps:
    """Mixin: no update comes from a loss or a gradient that is not finite.

    What one process finds, all act on: they stop, or leave the update out ("skip").
    """

    run: Run
    non_finite = "stop"
    finite = True  # the losses of this step
    skipped = 0  # updates

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        broken = [not self.finite, not math.isfinite(norm or 0)]
        found = torch.tensor(broken, device=self.args.device).float()
        loss, gradient = self.accelerator.reduce(found).tolist()
        self.finite = True
        if loss or gradient:
            self.skipped += 1
            self.not_finite("the loss" if loss else "the gradient")
            self.run.summarise(
                "summary", **{f"{self.run.phase}_skipped_steps": self.skipped}
            )
            for weight in model.parameters():
                weight.grad = None  # the optimizer then leaves it and its state alone
        return norm

    def log(self, logs: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        logs.update({"skipped_steps": self.skipped} if self.skipped else {})
        super().log(logs, *args, **kwargs)

    def not_finite(self, what: str, samples: Sequence[dict[str, Any]] = ({},)) -> None:
        """Record that `what` is not finite in this step. CarlError if it is to stop."""
        step, remedy = self.state.global_step + 1, "or leave it out: non_finite: skip"
        for sample in samples:
            self.run.append("non_finite", {"step": step, "what": what, **sample})
        if self.non_finite == "stop":
            remedy = f"look at non_finite.jsonl for what led to it, {remedy}"
            raise CarlError(f"{what} is not finite in step {step}", remedy=remedy)
        self.run.say(f"{self.run.phase} {step}: {what} is not finite, and left out")


def nan_is_infinite(reward: Any) -> Any:
    """A reward function with inf for NaN, which TRL would take for None."""

    def marked(found: Any) -> list[Any]:
        return [math.inf if x is not None and math.isnan(x) else x for x in found]

    @functools.wraps(reward)
    def called(**given: Any) -> list[Any]:
        return marked(reward(**given))

    @functools.wraps(reward)
    async def awaited(**given: Any) -> list[Any]:
        return marked(await reward(**given))

    return awaited if inspect.iscoroutinefunction(reward) else called


def correlation(x: Tensor, y: Tensor) -> float | None:
    """Pearson's of two [B], where both are known; None if one of them is constant."""
    pair = torch.stack([x, y]).double()[:, (x + y).isfinite()]  # [2, known]
    varies = pair.numel() and (pair.amax(1) > pair.amin(1)).all()
    return torch.corrcoef(pair)[0, 1].item() if varies else None


# ---- carl_runtime_min/remembering.py sha256:13bbaac11fb9 -----------------------------
def remembering(trainer: Any) -> dict[str, Any]:
    """The rewards of a trainer that carry a state, by name."""
    rewards = map(inspect.unwrap, vars(trainer).get("reward_funcs", ()))
    return {one.__name__: one for one in rewards if hasattr(one, "load_state_dict")}


# ---- carl_runtime_min/steps.py sha256:9d47968d0bb7 -----------------------------------
DIGESTED = 1 << 28  # weights hashed after each step; of more, only at checkpoints


def digest(*values: Any) -> str:
    """SHA-256 of tensors, of what holds them, and of what JSON can hold."""
    found = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            found.update(f"{value.dtype}{list(value.shape)}".encode())
            flat = value.detach().cpu().reshape(-1).view(torch.uint8)
            found.update(flat.numpy().data)
        elif isinstance(value, Mapping):  # processors of images make no plain dict
            for key in sorted(value):
                found.update(key.encode())
                add(value[key])
        elif isinstance(value, list | tuple):
            for each in value:
                add(each)
        elif hasattr(value, "tobytes"):  # the pixels of an image
            found.update(value.tobytes())
        else:
            found.update(json.dumps(value, default=lambda x: type(x).__name__).encode())

    add(values)
    return found.hexdigest()


# ---- carl_runtime_min/resume.py sha256:48e4181e9dd6 ----------------------------------
COUNTERS = (
    "_tr_loss",
    "_globalstep_last_logged",
    "_metrics",
    "_stored_metrics",  # as ORPO calls them
    "_total_train_tokens",
    "skipped",
    "plain_head",
)
WINDOW = ("_step", "_buffered_inputs", "completion_ids", "rewards")  # of several steps
CHECKPOINT_HOOKS = {
    "_get_grad_norm": "model, grad_norm",
    "_maybe_log_save_evaluate": "tr_loss",
    "_save_rng_state": "output_dir",
    "_load_rng_state": "checkpoint",
    "_save_checkpoint": "model, trial",
}


class Stopped(Exception):  # noqa: N818  (no error)
    """The run was asked to stop in the middle of an optimizer step."""


class ExactResume(FiniteSteps):
    """Mixin of a trainer that is trained by `fit`, which sets `run`."""

    between: dict[str, Any] | None = None  # what holds after the last step
    seen: tuple[str, ...] = ()  # digests of the batches of this step

    def counters(self) -> dict[str, Any]:
        """What the trainer counts; of samples, which never change, no copy."""
        own = vars(self)
        counted = {name: copy.deepcopy(own[name]) for name in COUNTERS if name in own}
        return counted | {name: own[name] for name in WINDOW if name in own}

    def count_from(self, counters: dict[str, Any]) -> None:
        """Set the counters to those of another step."""
        vars(self).update(counters)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        if self.seen:  # it is called once more at the end of an epoch
            self.run.append("steps", self.step_record())
        super()._maybe_log_save_evaluate(*args, **kwargs)
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        self.between = {
            "counters": self.counters(),
            "tokens": self.state.num_input_tokens_seen,
            "rng": (random.getstate(), np.random.get_state(), torch.get_rng_state()),
            "cuda": cuda,
        }

    def training_step(
        self, model: Any, inputs: Any, *args: Any, **kwargs: Any
    ) -> Tensor:
        """One micro-batch; a request to stop is heard at the next forward, or token."""
        peft = hasattr(self.model, "get_base_model")
        policy = self.model.get_base_model() if peft else self.model
        alone = self.accelerator.num_processes == 1  # others would wait for ever
        hook = policy.register_forward_pre_hook(self.listen) if alone else None
        try:
            loss: Tensor = super().training_step(model, inputs, *args, **kwargs)
        finally:
            if hook:
                hook.remove()
        self.finite &= bool(loss.isfinite())
        self.seen += (digest(inputs),)
        return loss

    def step_record(self) -> dict[str, Any]:
        """What the step was made of and led to, for a replay to compare."""
        samples, rewards = vars(self).get("completion_ids"), vars(self).get("rewards")
        weights = [(n, w) for n, w in self.model.named_parameters() if w.requires_grad]
        trained = {n: getattr(w, "to_local", lambda w=w: w)() for n, w in weights}
        few = sum(map(Tensor.numel, trained.values())) < DIGESTED
        rows = [weight.detach().norm(dim=-1).double() for weight in trained.values()]
        seen, self.seen = self.seen, ()
        return {
            "step": self.state.global_step,
            "script": self.run.script,
            "batch": digest(seen),
            "samples": samples and digest(samples),
            "rewards": None if rewards is None else rewards.tolist(),
            "state": digest(self.state.stateful_callbacks.get("carl")),
            "norm": sum(row.norm() for row in rows).item(),
            "weights": digest(trained) if few or self.control.should_save else None,
        }

    def listen(self, *forward: Any) -> None:
        if asked_to_stop(self.run.path):
            raise Stopped

    def save_between(self) -> None:
        """Checkpoint what was true before the step that was begun and given up."""
        states = checkpoints(self.run.checkpoints).values()
        steps = [state["global_step"] for state in states]
        if self.between is None or self.state.global_step in steps:
            return
        self.count_from(self.between["counters"])
        self.state.num_input_tokens_seen = self.between["tokens"]
        python, numpy, cpu = self.between["rng"]
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        torch.cuda.set_rng_state_all(self.between["cuda"])
        self._save_checkpoint(self.model, None)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Older checkpoints go when all of this one is on the disk."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        super()._save_checkpoint(model, trial)
        self.args.save_total_limit = limit
        if self.run.first:
            new = self.run.checkpoints / f"checkpoint-{self.state.global_step}"
            sync([new / STATE, new, new.parent])
            self.run.anchor()
            self.run.rotate(limit, self.state.best_model_checkpoint)

    def _save_rng_state(self, folder: str) -> None:
        from safetensors.torch import save_file

        super()._save_rng_state(folder)
        tensors: dict[str, Tensor] = {}

        def plain(value: Any) -> Any:
            if isinstance(value, Tensor):
                tensors[name := str(len(tensors))] = value.detach().cpu().clone()
                return {"tensor": name}
            if isinstance(value, dict):
                return {key: plain(each) for key, each in value.items()}
            return list(map(plain, value)) if isinstance(value, list) else value

        told = json.dumps(plain(self.counters()))
        save_file(tensors, self.counters_file(folder), {"counters": told})
        self.accelerator.wait_for_everyone()  # the next file says that all is whole
        if self.run.first:
            sync([*Path(folder).rglob("*"), *self.run.path.glob("*.jsonl")])

    def _load_rng_state(self, folder: str | None) -> None:
        from safetensors import safe_open

        super()._load_rng_state(folder)
        with safe_open(self.counters_file(folder), "pt") as file:

            def made(value: Any) -> Any:
                if isinstance(value, dict) and list(value) == ["tensor"]:
                    return file.get_tensor(value["tensor"]).to(self.args.device)
                if isinstance(value, dict):
                    return {key: made(each) for key, each in value.items()}
                return list(map(made, value)) if isinstance(value, list) else value

            counters = made(json.loads(file.metadata()["counters"]))
        for name in ("_metrics", "_stored_metrics"):  # dictionaries with defaults
            for part, values in counters.pop(name, {}).items():
                vars(self)[name][part].update(values)
        self.count_from(counters)

    def counters_file(self, folder: str | None) -> Path:
        rank = self.accelerator.process_index
        return Path(str(folder)) / f"counters-{rank}.safetensors"


# ---- carl_runtime_min/fit.py sha256:23af51f8d8ce -------------------------------------
SHOWN = (
    "loss mean_token_accuracy rewards/accuracies reward phi phi/chosen phi/rejected "
    "carl/weight eval_loss eval_reward"
)


def head_width(model: Any) -> int:
    """V: the rows of the output head, padding included."""
    head = model.get_output_embeddings()
    if head is None:
        remedy = "choose a causal language model"
        raise UsageError("the model has no output head of its own", remedy=remedy)
    weight = head.weight
    return int(getattr(weight, "ds_shape", weight.shape)[0])  # ds_: cut by ZeRO-3


def training_arguments(run: Run, settings: dict[str, Any]) -> dict[str, Any]:
    """The spec's trainer arguments, and those that depend on this machine."""
    cuda, bf16 = torch.cuda.is_available(), settings["bf16"]
    return {
        "project": run.path.name,  # as trackers name it
        "run_name": f"{run.path.name}-{run.phase}",
        **settings["trainer"],
        "output_dir": str(run.checkpoints),
        "use_cpu": not cuda,
        "dataloader_pin_memory": cuda,
        "bf16": cuda and torch.cuda.is_bf16_supported() if bf16 is None else bf16,
    }


def approximate(args: Any) -> str | None:
    """Why the same steps may have another result on this machine, if they may."""
    if getattr(args, "use_vllm", False):
        return "vLLM keeps random numbers of its own"
    exact = args.full_determinism or not torch.cuda.is_available()
    return None if exact else "GPUs add in any order (trainer.full_determinism)"


class Observer:
    """A trainer callback that ignores every event it does not define."""

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("on_"):
            raise AttributeError(name)
        return lambda *args, **kwargs: None


class Recorder(Observer):
    """Writes metrics, keeps `parts` in the checkpoints, stops when asked to.

    It comes after what may end the phase, and before trackers: they report Φ too. The
    state of a part is its `vars`.
    """

    def __init__(self, run: Run, width: int, parts: dict[str, Any]) -> None:
        self.run, self.width, self.parts = run, width, parts
        self.finished = self.asked = False

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        logs, step = kwargs["logs"], state.global_step
        if "train_runtime" in logs:  # the trainer's farewell, not a step
            return
        for name in ("entropy", "eval_entropy"):  # Φ is linear in H: means carry over
            if logs.get(name) is not None:
                phi = order_parameter(torch.tensor(logs[name]), self.width)
                logs[name.replace("entropy", "phi")] = phi.item()
        self.run.append("metrics", {"step": step, **logs})
        keys = [key for key in SHOWN.split() if logs.get(key) is not None]
        facts = [f"{key} {logs[key]:.3f}" for key in keys]
        self.run.say(f"{self.run.phase} {step}/{state.max_steps} ", *facts)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.finished = control.should_training_stop  # by the last step or the gate
        control.should_training_stop |= state.global_step == self.run.until
        self.keep(state)
        asked = torch.tensor(float(asked_to_stop(self.run.path)), device=args.device)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(asked)  # all ranks stop after the same step
        self.asked = bool(asked.item())
        control.should_save |= self.asked

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.finished = control.should_training_stop  # the patience is used up
        self.keep(state)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop |= self.asked

    def keep(self, state: Any) -> None:
        """Put into the next checkpoint what a resume needs."""
        kept = {name: deepcopy(vars(part)) for name, part in self.parts.items()}
        state.stateful_callbacks["carl"] = {"finished": self.finished, "parts": kept}


def fit(
    trainer: Any,
    run: Run,
    settings: dict[str, Any],
    parts: dict[str, Any],
    watches: Iterable[Any] = (),
    trackers: Iterable[Any] = (),
) -> bool:
    """Train until the last step, the gate or a request to stop; was it finished?

    A finished phase leaves its model, one that was stopped a checkpoint.
    """
    from transformers import PrinterCallback

    recorder = Recorder(run, head_width(trainer.model), parts)
    trainer.remove_callback(PrinterCallback)
    for callback in (*watches, recorder, *trackers):
        trainer.add_callback(callback)
    with trainer.accelerator.main_process_first():  # it removes what others look at
        start, state = run.start()
    saved = state.get("stateful_callbacks", {}).get("carl", {})
    if start:
        run.say(f"{run.phase}: continuing after step {state['global_step']}")
        if reason := approximate(trainer.args):
            run.say(f"resume: approximate, since {reason}")
        for name, part in parts.items():
            vars(part).update(saved["parts"][name])
    if saved.get("finished"):  # a crash kept the result from being saved
        best = Path(str(state["best_model_checkpoint"] or start)).name
        trainer._load_from_checkpoint(str(run.checkpoints / best))
    else:
        trainer.run, trainer.non_finite = run, settings["non_finite"]
        try:
            trainer.train(resume_from_checkpoint=str(start) if start else None)
        except Stopped:
            trainer.save_between()
            return False
        if not trainer.state.global_step:
            remedy = "add rows, or make the batches smaller"
            raise UsageError("the rows do not fill one batch", remedy=remedy)
        if not recorder.finished:
            return False
        state = vars(trainer.state)
    draft, result = run.checkpoints / "checkpoint-result", run.path / settings["result"]
    trainer.save_model(str(draft))
    if run.first:
        shutil.rmtree(draft / "ref", ignore_errors=True)  # TRL's copy of the adapters
        shutil.rmtree(result, ignore_errors=True)
        sync([*draft.rglob("*"), draft])
        draft.replace(result)
        run.anchor()
        run.summarise(weights_sha256=weights_sha256(result))
        if state["best_metric"] is not None:
            facts = {name: state[name] for name in ("best_metric", "best_global_step")}
            run.summarise(**facts)
    return True


# ---- carl_runtime_min/gate_watch.py sha256:f9f0f2c86a47 ------------------------------
class GateWatch(Observer):
    """Shows the gate every optimizer step, however rarely the run logs.

    The trainer keeps one value per micro-batch until it logs, which comes after this
    event: the last `gradient_accumulation_steps` values are this step's.
    """

    def __init__(self, trainer: Any, gate: Gate, metric: str, stop: bool) -> None:
        self.trainer, self.gate, self.metric, self.stop = trainer, gate, metric, stop

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        kept = self.trainer._metrics["train"]
        count = self.trainer.current_gradient_accumulation_steps
        last = [kept.get(name, [])[-count:] for name in (self.metric, "entropy")]
        value, entropy = (sum(x) / len(x) if x else None for x in last)
        if self.gate.check(value, entropy, state.global_step):
            if state.is_world_process_zero:
                step = state.global_step
                print(f"gate: fired at step {step}, {self.metric} {value:.3f}")
            if self.stop:
                control.should_evaluate |= args.do_eval  # it may be the best one
                control.should_save = control.should_training_stop = True


# ---- carl_runtime_min/hooks.py sha256:31138c67e94d -----------------------------------
def check_hooks(trainer_class: type, hooks: dict[str, str]) -> None:
    """Stop if a private method does not take, after self, the arguments in `hooks`."""
    for name, expected in hooks.items():
        method = getattr(trainer_class, name, lambda: None)
        found = ", ".join(inspect.signature(method).parameters)
        if not f"{found}, ".removeprefix("self, ").startswith(f"{expected}, "):
            remedy = "install the TRL version pinned at the top of this script"
            raise CarlError(f"TRL's {name} takes ({found})", remedy=remedy, exit_code=4)


# ---- carl_runtime_min/head.py sha256:b018b30d3a02 ------------------------------------
CLOSE = 1e-5  # of ln V: what float32 leaves between two orders of the same sums


class PlainHead:
    """Stands for a model where TRL asks for its fused head: scores its plain logits."""

    eps = 0.0  # of the logits' type

    def __init__(self, model: Any, keep: int, temperature: float) -> None:
        self.model, self.keep, self.temperature = model, keep, temperature

    def __call__(self, labels: Tensor, fused_lm_head: bool, **inputs: Any) -> Any:
        inputs |= {"use_cache": False, "logits_to_keep": self.keep + 1}
        logits = self.model(**inputs).logits[:, -self.keep - 1 : -1]  # [B, T, V]
        self.eps = torch.finfo(logits.dtype).eps
        chosen = labels[:, -self.keep :].clamp(min=0)
        entropy, log_probs = token_field(logits, chosen, self.temperature)
        return SimpleNamespace(log_probs=log_probs, entropy=entropy)


class CheckedHead:
    """Mixin: scores by the fused head, unless the first batch or a NaN forbids it."""

    plain_head: bool | None = None  # for the whole run; known after the first batch

    def head_scores(self, ids: Tensor, mask: Tensor, keep: int) -> Tensor:
        """log p and H of the last `keep` tokens of each row, [2, B, keep], in nats."""
        size = self.args.per_device_train_batch_size
        plain = PlainHead(self.model, keep, self.temperature)

        def by(model: Any, last: int | None = None) -> Tensor:
            score, rows = self._get_per_token_logps_and_entropies, mask[:last]
            given = {"batch_size": size, "compute_entropy": True}
            found = score(model, ids[:last], rows, keep, **given)
            return torch.stack(found[:2]).float().where(rows[:, -keep:] > 0, 0)

        if self.plain_head:
            return by(plain)
        scores = by(self.model)
        if self.plain_head is None:
            gap = (scores[:, :size] - by(plain, size)).abs()
            gap /= math.log(head_width(self.model))
            # Half precision moves single tokens by more than its eps, not their mean.
            same = (gap.amax() <= CLOSE) | (gap.mean() <= plain.eps)
            self.plain_head = self.any_process(~same)
            if self.plain_head:
                off = f"TRL's fused head is off by {gap.amax().item():.1e} ln V"
                self.run.say(f"field: {off}, the model's plain logits take its place")
        return by(plain) if self.unsound(scores[1]) else scores

    def unsound(self, entropy: Tensor) -> bool:
        """Whether the fused head's H, [B, T], is of no use in any process."""
        return bool(self.plain_head) or self.any_process(~entropy.isfinite().all())

    def any_process(self, flag: Tensor) -> bool:
        """What one process finds, all act on: a forward may need all of them."""
        return bool(self.accelerator.reduce(flag.float()).item())


# ---- carl_runtime_min/grpo.py sha256:fd02c1b18d8f ------------------------------------
SAMPLES = 4  # completions recorded at a time
HOOKS = {
    **CHECKPOINT_HOOKS,
    "_get_train_sampler": "dataset",
    "_init_training_state": "max_steps, num_update_steps_per_epoch",
    "_generate": "prompts",
    "_generate_and_score_completions": "inputs",
    "_calculate_rewards": "inputs, prompts, completions, completion_ids_list",
    "_get_per_token_logps_and_entropies": "model, input_ids, attention_mask, "
    "logits_to_keep, batch_size, compute_entropy",
}


class CoherenceReward:
    """R_CARL as a TRL reward function: None for each row while no field is given.

    `width` is V, the rows of the output head; `weights` are those of the components.
    """

    __name__ = "carl"

    def __init__(self, width: int, weights: list[float]) -> None:
        self.width, self.weights = width, weights

    def __call__(self, completion_ids: list[Any], **given: Any) -> list[float | None]:
        if "token_logps" not in given:
            return [None] * len(completion_ids)
        pad = partial(pad_sequence, batch_first=True)
        mask = pad([torch.ones_like(row).bool() for row in given["token_logps"]])
        log_probs, joints = pad(given["token_logps"]), pad(given["token_junctions"])
        phi = order_parameter(pad(given["token_entropies"]), self.width)  # [B, T]
        parts = coherence_components(phi, log_probs, mask, joints)  # each [B]
        for name, values in zip(parts._fields, parts, strict=True):
            given["log_metric"](f"carl/{name}", values.nanmean().item())
        rewards = weigh(parts, mask, self.weights)  # [B]
        return [None if math.isnan(reward) else reward for reward in rewards.tolist()]


class SampledPolicy(CheckedHead, ExactResume):
    """Mixin: keeps what was sampled, bars infinite rewards, records samples."""

    reward_funcs: list[Any]
    tasks = slice(None)  # which rewards are the task's

    def record_in(self, run: Run, every: int, maximum: float | None = None) -> None:
        """Write samples to `run` at each `every`-th step.

        `maximum` is that of the weighted task rewards' sum, if bounded.
        """
        self.run, self.samples_every, self.maximum = run, every, maximum
        self.reward_funcs = list(map(nan_is_infinite, self.reward_funcs))

    def counters(self) -> dict[str, Any]:
        states = {name: one.state_dict() for name, one in remembering(self).items()}
        return {**super().counters(), "reward_states": deepcopy(states)}

    def count_from(self, counters: dict[str, Any]) -> None:
        states = counters.pop("reward_states")
        for name, reward in remembering(self).items():
            if name in states:  # else an edited script has added it
                reward.load_state_dict(states[name])
        super().count_from(counters)

    def log_now(self, name: str, value: float | None) -> None:
        mode = "train" if self.model.training else "eval"
        self._metrics[mode][name].append(math.nan if value is None else value)

    def _get_train_sampler(self, *args: Any) -> Any:
        self.order = super()._get_train_sampler(*args)
        return self.order

    def _init_training_state(self, *args: Any) -> Any:
        epochs, steps = super()._init_training_state(*args)
        for _ in range(epochs):  # TRL draws the order of an epoch when it begins
            next(iter(self.order), None)
        return epochs, steps

    def _generate(self, prompts: list[Any]) -> Any:
        generated = super()._generate(prompts)
        self.prompt_ids, self.completion_ids = generated[:2]
        self.tool_mask = generated[2] if len(generated) > 3 else None  # RLOO has none
        return generated

    @torch.no_grad()
    def score(self, count: int | None = None) -> list[dict[str, Tensor]]:
        """The field of the first `count` completions (None: of all), by one forward.

        Dropout is off. Tokens of tools are context: they are scored and left out.
        """
        prompts = [torch.tensor(row) for row in self.prompt_ids[:count]]
        sampled = [torch.tensor(row).long() for row in self.completion_ids[:count]]
        pad = partial(pad_sequence, batch_first=True, padding_value=-1)
        ids = torch.cat([pad(prompts, padding_side="left"), pad(sampled)], 1)
        ids = ids.to(self.accelerator.device)  # [B, P + T]
        training = self.model.training
        self.model.eval()
        width = max(1, *map(len, sampled))
        scores = self.head_scores(ids.clamp(min=0), (ids >= 0).long(), width)
        self.model.train(training)
        return self.fields(*scores)

    def fields(self, log_probs: Tensor, entropy: Tensor) -> list[dict[str, Tensor]]:
        """Cut padded scores, [B, T] each, to the policy's tokens of each completion."""
        own, cut = self.own_tokens(), []
        for i, row in enumerate(torch.stack([log_probs, entropy], 1).float().cpu()):
            places = torch.tensor(own[i]).nonzero().squeeze(-1)
            field = {"token_logps": row[0, places], "token_entropies": row[1, places]}
            field["token_junctions"] = places.diff(prepend=places[:1] - 1) != 1
            cut.append(field)
        return cut

    def own_tokens(self) -> list[list[int]]:
        """1 for a token that the policy drew, 0 for one of a tool."""
        return self.tool_mask or [[1] * len(row) for row in self.completion_ids]

    def _calculate_rewards(self, inputs: Any, *batch: Any) -> Tensor:
        from accelerate.utils import gather_object

        rewards: Tensor = super()._calculate_rewards(inputs, *batch)  # [global B, F]
        broken = rewards.isinf()
        self.log_now("rewards/non_finite", broken.any(1).sum().item())
        if broken.any():
            texts, names = gather_object(batch[1]), self.reward_func_names
            found = [
                {"reward": names[j], "sample": i, "completion": texts[i]}
                for i, j in broken.nonzero().tolist()
            ]
            first = "reward {reward} of sample {sample}".format(**found[0])
            self.not_finite(first, found)
        rewards[broken] = math.nan
        self.completions, self.rewards = batch[1], rewards
        return rewards

    def log_rewards(self) -> None:
        """What tells no answers apart, and how rewards depend on the length."""
        rewards = self.rewards * self.reward_weights.to(self.rewards.device)
        scored = ~rewards.isnan().all(1)  # [global B]
        tokens = torch.tensor(list(map(sum, self.own_tokens())), device=rewards.device)
        lengths = self.accelerator.gather(tokens)[scored]
        total, each = rewards.nansum(1)[scored], self.rewards.T[:, scored]
        self.log_now("rewards/length_correlation", correlation(lengths, total))
        for name, values in zip(self.reward_func_names, each, strict=True):
            found = correlation(lengths, values)
            self.log_now(f"rewards/{name}/length_correlation", found)
        tasks = rewards[:, self.tasks].nansum(1).masked_fill(~scored, math.nan)
        groups = tasks.reshape(-1, self.num_generations)
        apart = (groups - groups.nanmean(1, True)).abs().nan_to_num().amax(1)
        self.log_now("rewards/tied_groups", (apart < 1e-6).float().mean().item())
        if self.maximum is not None:
            highest = tasks[scored] >= self.maximum - 1e-6 * abs(self.maximum)
            self.log_now("rewards/saturated", highest.float().mean().item())

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        step = self.state.global_step
        batch = super()._generate_and_score_completions(inputs)
        first = self.accelerator.process_index * len(inputs)
        if self.model.training:
            self.log_rewards()
        due = self.model.training and step % self.samples_every == 0
        for i, field in enumerate(self.score(SAMPLES) if due else ()):
            phi = order_parameter(field["token_entropies"], head_width(self.model))
            rewards = self.rewards[first + i].tolist()
            sample = {
                "step": step + 1,
                "prompt": inputs[i]["prompt"],
                "completion": self.completions[i],
                "token_ids": self.completion_ids[i],
                "rewards": dict(zip(self.reward_func_names, rewards, strict=True)),
                "phi": phi.tolist(),
                "p": field["token_logps"].exp().tolist(),
            }
            self.run.append("samples", sample)
        return batch


class CoherentPolicy(SampledPolicy):
    """Mixin: adds R_CARL to the task rewards once the cascade has opened.

    `reward_funcs` ends with the `CoherenceReward`; those before it are the task's.
    """

    cascade: Cascade
    tie_weight: float
    multi_objective_aggregation = "sum_then_normalize"  # as RLOO, which has no choice
    scale_rewards = "none"
    tasks = slice(-1)

    def _calculate_rewards(self, inputs: Any, *batch: Any) -> Tensor:
        if not self.model.training:  # an evaluation is by the task alone
            return super()._calculate_rewards(inputs, *batch)
        cascade, step = self.cascade, self.state.global_step
        cascade.begin(step)
        if cascade.stage == "B":
            self.reward_weights[-1] = cascade.weight(step)
            rows = zip(inputs, self.batch_field(), strict=True)
            inputs = [{**row, **field} for row, field in rows]
        rewards = super()._calculate_rewards(inputs, *batch)
        tasks = rewards[:, :-1] * self.reward_weights[:-1].to(rewards.device)
        unscored = tasks.isnan().all(1)  # [global B]
        total = tasks.nansum(1).masked_fill(unscored, math.nan)
        metric = total.nanmean().item()
        if cascade.stage == "B":
            unscored |= rewards[:, -1].isnan()
            rewards[unscored] = math.nan
        cascade.observe(metric, step)
        apart = self.multi_objective_aggregation == "normalize_then_sum"
        compared = tasks if apart else total[:, None]  # [global B, F - 1 or 1]
        self.compared = compared.masked_fill(unscored[:, None], math.nan)
        self.log_now("rewards/unscored", unscored.sum().item())
        self.log_now("cascade/metric", metric)
        self.log_now("cascade/threshold", cascade.threshold)
        self.log_now("cascade/opened_at", cascade.opened_at)
        self.log_now("carl/stage", float(cascade.stage == "B"))
        self.log_now("carl/weight", cascade.weight(step))
        return rewards

    told = False  # where the field comes from

    def tell(self, source: str, fields: list[Any], scored: list[Any]) -> float:
        """Record how far the field is from a pass of its own, in units of ln V."""
        names = ("token_logps", "token_entropies")
        pairs = zip(fields, scored, strict=True)
        gaps = [one[name] - other[name] for one, other in pairs for name in names]
        gap = torch.cat(gaps).abs().max().item() / math.log(head_width(self.model))
        self.run.summarise("run", field={"source": source, "difference": gap})
        self.told = True
        return gap

    def batch_field(self) -> list[dict[str, Tensor]]:
        """The field of every completion of this batch, on this rank."""
        fields = self.score()
        if not self.told:
            self.tell("plain logits" if self.plain_head else "pass", fields, fields)
        ends = {*self.eos_token_ids, self._tokenizer.pad_token_id}
        if self.mask_truncated_completions:  # those have no say, thus no field
            for tokens, field in zip(self.completion_ids, fields, strict=True):
                if tokens[-1] not in ends:
                    field["token_entropies"].fill_(math.nan)
        return fields

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        batch = super()._generate_and_score_completions(inputs)
        if not self.model.training:
            return batch
        cascade, compared = self.cascade, self.compared
        apart = self.multi_objective_aggregation == "normalize_then_sum"
        if cascade.stage == "B" and (apart or self.scale_rewards == "group"):
            ramp = cascade.weight(self.state.global_step) / cascade.carl_weight
            every = torch.ones(len(compared), device=compared.device)
            factor = ramp * self.tie_weight
            scale = damp_ties(every, compared, self.num_generations, factor)
            first = self.accelerator.process_index * len(inputs)
            batch["advantages"] *= scale[first : first + len(inputs)]
        return batch


# ---- carl_runtime_min/capture.py sha256:905f51b388ac ---------------------------------
class Capture:
    """The first logits processor: it sees raw logits, and their token a call later."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature
        self.logits: Any = None
        self.fields: list[Tensor] = []  # [2, B] each: H and log p of a token

    def __call__(self, ids: Tensor, logits: Tensor) -> Tensor:
        if self.logits is not None:
            self.take(ids[:, -1])
        self.logits = logits.clone()  # later processors may write to theirs
        return logits

    def take(self, chosen: Tensor) -> None:
        field = token_field(self.logits, chosen, self.temperature, overwrite=True)
        self.fields.append(torch.stack(field))


class CapturedScores(CoherentPolicy):
    """Takes the field from the logits that the tokens were drawn from.

    Only where one plain `generate` draws all tokens of a completion, with the numbers
    that the trainer scores with: the first batch is compared with a pass of its own.
    """

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        peft = hasattr(self.model, "get_base_model")
        model = self.model.get_base_model() if peft else self.model
        make, capture = model._get_logits_processor, Capture(self.temperature)

        def processors(*args: Any, **kwargs: Any) -> Any:
            made = make(*args, **kwargs)
            made.insert(0, capture)
            return made

        model._get_logits_processor = processors
        try:
            drawn = super()._generate_single_turn(*args, **kwargs)
        finally:
            del model._get_logits_processor
        last = [row[-1] for row in drawn[0]]  # of no use to rows that ended before
        capture.take(torch.tensor(last, device=capture.logits.device))
        self.captured = torch.stack(capture.fields, -1)  # [2, B, T]
        return drawn

    @torch.no_grad()
    def score(self, count: int | None = None) -> list[dict[str, Tensor]]:
        entropy, log_probs = self.captured
        fields = self.fields(log_probs, entropy)
        gap = 0.0 if self.told else self.tell("generation", fields, super().score())
        if not gap <= CLOSE:
            remedy = "set carl.field: pass, for one more forward of each batch"
            reason = f"generation and scoring differ by {gap:.1e} ln V, over {CLOSE}"
            raise UsageError(reason, remedy=remedy)
        return fields[:count]


# ---- carl_runtime_min/evaluation.py sha256:315dcd29db28 ------------------------------
@torch.no_grad()
def sample_answers(
    model: Any,
    tokenizer: Any,
    prompts: list[Any],
    settings: dict[str, Any],
    run: Run | None = None,
) -> list[dict[str, Any]]:
    """One completion per prompt: its `text`, its `token_ids`, their mean Φ as `phi`.

    At temperature 0 the likeliest tokens are taken, and Φ is measured at temperature 1.
    """
    from transformers import GenerationConfig

    model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    tau, size, answers = settings["temperature"], settings["batch_size"], []
    own = model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None}
    warm = {"temperature": tau, "top_k": 0, "top_p": 1.0} if tau > 0 else {}
    model.generation_config = GenerationConfig(  # as in training: the policy, no more
        max_new_tokens=settings["max_new_tokens"],
        do_sample=tau > 0,
        eos_token_id=list(ends),
        pad_token_id=tokenizer.pad_token_id,
        **warm,
    )
    for start in range(0, len(prompts), size):
        if run and asked_to_stop(run.path):
            raise CarlError("asked to stop", remedy="run it again", exit_code=85)
        texts = prompts[start : start + size]
        chat = not isinstance(texts[0], str)
        if chat:
            render = tokenizer.apply_chat_template
            texts = render(texts, add_generation_prompt=True, tokenize=False)
        tokenizer.padding_side = "left"
        batch = tokenizer(
            texts, return_tensors="pt", padding=True, add_special_tokens=not chat
        ).to(model.device)
        out = model.generate(**batch)  # [B, P + T]
        sampled = out[:, batch["input_ids"].shape[1] :]  # [B, T]
        mask = torch.cat([batch["attention_mask"], torch.ones_like(sampled)], 1)
        keep = sampled.shape[1] + 1
        logits = model(out, attention_mask=mask, logits_to_keep=keep).logits[:, :-1]
        entropy, _ = token_field(logits, sampled, tau or 1.0)  # [B, T]
        phi = order_parameter(entropy, logits.shape[-1])
        for tokens, field in zip(sampled.tolist(), phi, strict=True):
            stops = (n for n, token in enumerate(tokens, 1) if token in ends)
            tokens = tokens[: next(stops, len(tokens))]
            text = tokenizer.decode(tokens, skip_special_tokens=True)
            mean = field[: len(tokens)].mean().item()
            answers.append({"text": text, "token_ids": tokens, "phi": mean})
    return answers


def item_scores(
    answers: list[dict[str, Any]], rows: Any, rewards: list[Any], weights: list[float]
) -> list[float]:
    """Each answer's weighted mean task reward; what cannot be scored counts as 0."""
    columns = {name: rows[name][:] for name in rows.column_names}
    columns["prompts"] = prompts = columns.pop("prompt")
    columns["completion_ids"] = [answer["token_ids"] for answer in answers]
    texts = [answer["text"] for answer in answers]
    if not isinstance(prompts[0], str):
        texts = [[{"role": "assistant", "content": text}] for text in texts]
    found = [reward(completions=texts, **columns) for reward in rewards]
    return [
        sum(w * (x or 0.0) for w, x in zip(weights, row, strict=True)) / sum(weights)
        for row in zip(*found, strict=True)
    ]


def paired_verdict(
    before: list[float], after: list[float], settings: dict[str, Any], seed: int
) -> dict[str, Any]:
    """Did the second model pass more of the same items? PASS, FAIL or INCONCLUSIVE.

    Exact one-sided McNemar tests at level alpha; beside them the bootstrap interval of
    the gain.
    """
    alpha, least, n = settings["alpha"], settings["item_pass"], len(before)
    old, new = ([score >= least for score in scores] for scores in (before, after))
    pairs = list(zip(old, new, strict=True))
    gained, lost = pairs.count((False, True)), pairs.count((True, False))
    better, worse = mcnemar(gained, lost) < alpha, mcnemar(lost, gained) < alpha
    return {
        "verdict": "PASS" if better else "FAIL" if worse else "INCONCLUSIVE",
        "items": n,
        "before": sum(old) / n,
        "after": sum(new) / n,
        "gained": gained,
        "lost": lost,
        "p_value": mcnemar(gained, lost),
        "gain_interval": paired_bootstrap(before, after, alpha, seed),
    }


# ---- carl_runtime_min/summary.py sha256:698a6b74fcab ---------------------------------
BLOCKS = " ▁▂▃▄▅▆▇█"
CURVES = {
    "mean_token_accuracy": "token accuracy",
    "cascade/metric": "task reward",
    "reward": "reward",
    "phi": "Φ",
    "carl/weight": "weight of CARL",
}


def plot(values: Sequence[float], width: int = 60, height: int = 4) -> list[str]:
    """`values` as `height` lines of at most `width` columns, from lowest to highest."""
    n, columns = len(values), min(width, len(values))
    groups = [values[i * n // columns : (i + 1) * n // columns] for i in range(columns)]
    means = [sum(group) / len(group) for group in groups]
    scale = (8 * height - 1) / ((max(means) - min(means)) or 1.0)
    levels = [1 + round((mean - min(means)) * scale) for mean in means]
    return [
        "".join(BLOCKS[max(0, min(8, level - base))] for level in levels)
        for base in range(8 * (height - 1), -1, -8)
    ]


def show_run(run: Run) -> None:
    """The whole run on one screen: curves, gate, cascade and verdict."""
    records = run.records("metrics")
    for phase in dict.fromkeys(record["phase"] for record in records):
        rows = [record for record in records if record["phase"] == phase]
        for metric, title in CURVES.items():
            values = [row[metric] for row in rows if row.get(metric) is not None]
            if values:
                print(f"\n{phase}: {title} from {values[0]:.3f} to {values[-1]:.3f}")
                print(*(f"  │{line}" for line in plot(values)), sep="\n")
                print(f"  └ steps {rows[0]['step']} to {rows[-1]['step']},", end=" ")
                print(f"lowest {min(values):.3f}, highest {max(values):.3f}")
    summary = read_json(run.path / "summary.json")
    evaluation = summary.pop("evaluation", {})
    for name, value in {**summary, **evaluation}.items():
        print(f"{name}: {value}")


# ---- carl_runtime_min/selftest.py sha256:eb1b5d405627 --------------------------------
TOLERANCE = 1e-5


def compare(found: dict[str, Tensor], vectors: dict[str, Tensor]) -> int:
    """Print how far `found` is from the vectors; return 0, or 1 if that is too far."""
    good = True
    for name, values in found.items():
        error = (values - vectors[name]).abs().max().item()
        print(f"self-test: {name} is off by at most {error:.1e}")
        good &= error <= TOLERANCE
    print(f"self-test: {'OK' if good else 'FAILED'}, the bound is {TOLERANCE:.0e}")
    return 0 if good else 1


# ---- carl_runtime_min/dryrun.py sha256:30a652990540 ----------------------------------
def show_row(tokenizer: Any, row: dict[str, Any], answers_only: bool = False) -> None:
    """Print a row as the model sees it, the tokens that it learns in ⟦ ⟧.

    Warns when no end-of-sequence token is among them: such a model never stops.
    """
    prompt, learned = row.get("prompt"), row.get("completion") or row.get("messages")
    tools = tools_of(row) if learned else None  # GRPO shows none of the rows
    render = partial(tokenizer.apply_chat_template, return_dict=True, tools=tools)
    if answers_only:  # TRL has templates that mark the answers, for those that do not
        from trl import chat_template_utils as trl

        if not trl.has_generation_markers(tokenizer.chat_template):
            marked = trl.get_training_chat_template(tokenizer)
            render = partial(render, chat_template=marked)
    if isinstance(prompt, str):
        start = len(tokenizer(prompt)["input_ids"])
        ids = tokenizer(prompt + (learned or ""))["input_ids"]
        ids += [tokenizer.eos_token_id] * bool(learned)  # TRL appends it to plain text
    else:
        asked = (
            render(prompt, add_generation_prompt=True)["input_ids"] if prompt else []
        )
        start, whole = len(asked), (prompt or []) + (learned or [])
        ids = render(whole)["input_ids"] if learned else asked
    mask = [place >= start for place in range(len(ids))]
    if answers_only:
        mask = render(whole, return_assistant_tokens_mask=True)["assistant_masks"]
    print(f"\none row, {len(ids)} tokens:")
    for learns, places in groupby(range(len(ids)), key=lambda place: bool(mask[place])):
        text = tokenizer.decode([ids[place] for place in places])
        print(f"⟦{text}⟧" if learns else text, end="")
    print()
    own = [token for token, learns in zip(ids, mask, strict=True) if learns]
    if learned and tokenizer.eos_token_id not in own:
        print(f"warning: no turn ends with {tokenizer.eos_token!r}, so the model may")
        print("  never stop; check the chat template and the end-of-sequence token")


# ---- carl_runtime_min/entry.py sha256:6b2e3ee4120f -----------------------------------
ENDS = (0, 1, 3, 85)  # done, verdicts, to be resumed: other codes are errors
MACHINE = ("hardware", "versions")  # what rounding depends on
EDITED = ("script_sha256", "spec_sha256", "data_revision")  # by who edits a script
UNSET = "correct the name, grant the access or free the space"


def parse_arguments(description: str | None, run_dir: str) -> argparse.Namespace:
    """The command line of a script."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=shape)
    option = parser.add_argument
    option("--run-dir", type=Path, default=Path(run_dir))
    option("--resume", default="auto", help="auto, never, or a checkpoint")
    option("--accept", action="append", default=[], metavar="PHASE")
    option("--accept-changes", action="store_true", help="go on as an edited script")
    option("--dry-run", action="store_true")
    option("--self-test", action="store_true")
    option("--replay", metavar="PHASE:A:B", help="run recorded steps again, compare")
    option("--phase", help=argparse.SUPPRESS)  # what a supervisor asks of its child
    option("--until", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def identity(config: dict[str, Any], phases: list[str]) -> dict[str, Any]:
    """What must be the same when a run continues, the most telling first."""
    data = data_of(config, phases)
    files = {one["id"] for one in data if Path(one["id"]).is_file()}
    model = Path(config["model"]["id"])  # here or, more often, on a hub
    launched = int(os.environ.get("WORLD_SIZE", 0))  # by whoever starts processes
    return {
        "world_size": launched or max(1, torch.cuda.device_count()),
        "data_revision": [one["revision"] for one in data],
        "data_sha256": {name: sha256(Path(name)) for name in sorted(files)},
        "model_sha256": folder_sha256(model) if model.is_dir() else None,
        "spec_sha256": spec_sha256(config),
        "script_sha256": sha256(Path(sys.argv[0])),
    }


def claim(path: Path, facts: dict[str, Any], args: argparse.Namespace) -> int:
    """Lock the run directory, until the last process with the returned descriptor ends.

    UsageError: another process has it, or it belongs to a run that is not this one. An
    edited script may go on with `--accept-changes`; one that was may replay its steps.
    """
    path.mkdir(parents=True, exist_ok=True)
    lock, remedy = os.open(path / ".lock", os.O_RDWR | os.O_CREAT), "use --run-dir DIR"
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UsageError(f"a process is running in {path}", remedy=remedy) from error
    recorded, chosen = read_json(path / "run.json"), Path(args.resume).resolve()
    named = args.resume not in ("auto", "never")
    if recorded and args.resume == "never":
        raise UsageError(f"{path} holds a run already", remedy=remedy)
    if args.accept_changes and not named:
        changed = "name the checkpoint to go on from: --resume CHECKPOINT"
        raise UsageError("--accept-changes needs --resume", remedy=changed)
    for before in recorded.get("changes", ()):
        if args.replay and before["script_sha256"] == facts["script_sha256"]:
            recorded |= before
    for key, now in facts.items():
        edited = key in EDITED
        if recorded.get(key, now) != now and not (edited and args.accept_changes):
            then = f"{path} was started with {key} {recorded[key]}"
            remedy += ", or --resume CHECKPOINT --accept-changes" * edited
            raise UsageError(f"{then}, this run has {now}", remedy=remedy)
    phase = chosen.parent.name
    whole = chosen in checkpoints(path / "checkpoints" / phase)
    useful = whole and phase not in read_json(path / "phases.json")
    if named and not useful:
        remedy = f"choose a whole one, of a phase not done, in {path}/checkpoints"
        raise UsageError(f"{args.resume} is no checkpoint to go on from", remedy=remedy)
    return lock


def against_lock(lock: Path, versions: dict[str, str]) -> dict[str, Any] | None:
    """Whether the packages are those of a lock beside the script; None without one."""
    lines = lock.read_text().splitlines() if lock.is_file() else []
    pins = [line.split()[0] for line in lines if " --hash=" in line]
    same = str.maketrans("_.", "--")  # spellings of one name
    given = {f"{name}=={versions[name]}".lower().translate(same) for name in versions}
    differs = [pin for pin in pins if pin.lower().translate(same) not in given]
    told = {"matched": not differs, "differs": differs}
    return {"sha256": sha256(lock), **told} if pins else None


def surroundings(config: dict[str, Any]) -> dict[str, Any]:
    """What else decides the result: machine and packages."""
    cuda = torch.cuda
    gpu = cuda.get_device_name() if cuda.is_available() else None
    cpu = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    versions = {one.name: one.version for one in distributions()}
    return {
        "seed": config["seed"],
        "hardware": gpu or f"{cpu}, {os.cpu_count()} cores",
        "versions": versions,
        "lock": against_lock(Path(f"{sys.argv[0]}.lock"), versions),
        "resume": "exact on a CPU or with full_determinism, else approximate",
        "untried": config.get("untried", []) + ["a GPU"] * cuda.is_available(),
    }


def enrol(
    args: argparse.Namespace, config: dict[str, Any], phases: dict[str, Any]
) -> tuple[int, int]:
    """Claim the run directory and say there what runs: the lock, how many processes."""
    path, facts = args.run_dir.resolve(), identity(config, list(phases))
    lock, script = claim(path, facts, args), path / "train.py"
    before, here = read_json(path / "run.json"), surroundings(config)
    moved = any(before.get(key, here[key]) != here[key] for key in MACHINE)
    here["moved"] = moved or before.get("moved", False)
    then = {key: before.get(key, now) for key, now in facts.items()}
    if then != facts:  # edited: what it was, and its script, are kept
        changes = [*before.get("changes", []), {**then, "resume": args.resume}]
        if sha256(script) == then["script_sha256"]:  # else it was edited in its place
            script.replace(path / f"train-{then['script_sha256'][:12]}.py")
        here["changes"] = changes
        print(f"the script was edited: changes[{len(changes) - 1}] of run.json")
    elif "changes" in before:
        here["changes"] = before["changes"]
    write_json(path / "run.json", {**facts, **here})
    if here["untried"]:
        print("rendered, but not run by CARL's tests:", ", ".join(here["untried"]))
    with contextlib.suppress(shutil.SameFileError):  # that copy may be run, too
        shutil.copyfile(sys.argv[0], script)
    (path / "stop").unlink(missing_ok=True)
    return lock, facts["world_size"]


def lead(
    args: argparse.Namespace, config: dict[str, Any], phases: dict[str, Any]
) -> int:
    """Run the phases that are not done yet, each in a process of its own."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        return join(args, config, phases)
    lock, world_size = enrol(args, config, phases)
    path = args.run_dir.resolve()
    done = read_json(path / "phases.json")
    for phase in phases:
        code = done.get(phase)
        if code is None:
            if (path / "stop").exists():
                return 85
            processes = 1 if phase in ("eval", "push") else world_size
            code = supervise([*sys.argv, "--phase", phase], path, lock, processes)
        if code in (0, 1, 3):  # done, or a verdict: it is not run again
            write_json(path / "phases.json", done := {**done, phase: code})
        if code != 0 and not (code in (1, 3) and phase in args.accept):
            print(f"{phase}: ended with code {code}", file=sys.stderr)
            return int(code)
    return 0


def join(
    args: argparse.Namespace, config: dict[str, Any], phases: dict[str, Any]
) -> int:
    """Run the training phase as one of the processes that a launcher has started."""
    names, path = [name for name in phases if name != "push"], args.run_dir.resolve()
    if len(names) > 1:
        remedy = "start it with plain python: it starts torchrun on all visible GPUs"
        reason = f"a launcher runs one phase, and this script has {', '.join(names)}"
        raise UsageError(reason, remedy=remedy)
    store, rank, _ = next(rendezvous("env://"))
    if first := rank == 0:
        enrol(args, config, phases)
        store.set("enrolled", "")
    else:  # should that be refused, the launcher's signal ends this one here
        store.wait(["enrolled"], timedelta(days=1))
    done, code = read_json(path / "phases.json"), 0
    for args.phase in names + ["push"] * (first and "push" in phases):
        if args.phase not in done and code == 0:
            code = work(args, phases[args.phase])
            if first and code in (0, 1, 3):
                write_json(path / "phases.json", done := {**done, args.phase: code})
    return code


def work(args: argparse.Namespace, phase: Callable[[Run], int]) -> int:
    """Run one phase in this process; leave its exit code in the run directory."""
    accept_signals(args.run_dir.resolve())
    run = Run(args.run_dir.resolve(), args.phase, args.resume)
    run.until = args.until
    with together(run.path / "exit.json") as failed:

        def attempt() -> int:
            try:
                return phase(run)
            except Exception as error:
                if code := failed():  # this one waited for that one
                    reason, remedy = "another process failed", "see its own error"
                    raise CarlError(reason, remedy=remedy, exit_code=code) from error
                raise

        code = guarded(attempt, run.path)
        if run.first:
            run.clean(checkpoints(run.checkpoints))
        if (run.first or code not in ENDS) and not failed():
            with contextlib.suppress(OSError):  # a full disk: then it is the status
                write_json(run.path / "exit.json", {"code": code, "phase": run.phase})
    # torchrun would end rank 0, which may still write, if another rank seemed to fail
    return code if run.first or code not in ENDS else 0


@contextlib.contextmanager
def together(report: Path) -> Iterator[Callable[[], int]]:
    """End this process if another one of the launch leaves the code of an error.

    It may wait for that one for ever, in an operation that needs all of them. What the
    context gives tells that code, 0 for none.
    """
    launched, ours = "RANK" in os.environ, "CARL_SUPERVISOR" in os.environ
    over, old = threading.Event(), 0  # a supervisor has removed the old report
    if report.exists() and not ours:
        old = report.stat().st_mtime_ns

    def failed() -> int:
        new = launched and report.exists() and report.stat().st_mtime_ns != old
        told = read_json(report) if new else {}
        code = int(told.get("code", 0))
        return code if code not in ENDS or "stalled" in told else 0

    def watch() -> None:
        while not over.wait(0.5):
            if code := failed():
                os._exit(code)

    if launched:
        threading.Thread(target=watch, daemon=True).start()
    try:
        yield failed
    finally:
        over.set()


def guarded(action: Callable[[], int], path: Path) -> int:
    """Run `action`; turn an error made for people into its message and exit code."""
    try:
        return action()
    except Exception as caught:
        error: Exception = caught
        disk = shutil.disk_usage(path if path.exists() else ".")
        if "No space left" in str(error) or not disk.free:
            remedy = "free some, then run the same command: it goes on where it was"
            error = CarlError(f"no space left for {path}", remedy=remedy, exit_code=4)
        expected = isinstance(error, CarlError | OSError)
        remedy = getattr(error, "remedy", UNSET)
        with contextlib.suppress(OSError):  # where stderr is a file on a full disk
            if expected:
                print(f"error: {error}", f"  fix: {remedy}", sep="\n", file=sys.stderr)
            else:
                traceback.print_exc()
        return getattr(error, "exit_code", 4 if expected else 70)


# ---- carl_runtime_min/replay.py sha256:84a462847fcc ----------------------------------
EXACT = ("batch", "samples", "state")
ROUNDED = ("rewards", "norm", "weights")  # what another machine may round otherwise
SIMILAR = 1e-3


def replay(args: argparse.Namespace, config: dict[str, Any], phases: list[str]) -> int:
    """Run steps A to B of PHASE:A:B again: 0 if they are as recorded, 1 if not."""
    path, facts = args.run_dir.resolve(), identity(config, phases)
    name, first, last = chosen_steps(args.replay, phases)
    recorded, scratch = recorded_steps(path, name), path / "replay"
    for step in range(first, last + 1):
        if step not in recorded:
            remedy = f"choose steps in {path / 'steps.jsonl'}"
            raise UsageError(f"{name} has no record of step {step}", remedy=remedy)
    lock = claim(path, facts, args)  # nothing else may write there meanwhile
    shutil.rmtree(scratch, ignore_errors=True)
    for step in range(prepare(path, scratch, name, first), last + 1):
        if (script := recorded.get(step, {}).get("script")) != facts["script_sha256"]:
            remedy = f"use the script {str(script)[:12]} of {path}, or other steps"
            raise UsageError(f"another script ran {name} {step}", remedy=remedy)
    write_json(scratch / "run.json", facts)
    own = ["--run-dir", str(scratch), "--until", str(last), "--phase", name]
    code = supervise([*sys.argv, *own], scratch, lock, facts["world_size"])
    os.close(lock)
    if (stopped := (scratch / "stop").exists()) or code not in ENDS:
        reason = f"no verdict: {name} ended with code {code}"
        remedy = "run the replay again" if stopped else "mend what its error names"
        raise CarlError(reason, remedy=remedy, exit_code=130 if stopped else code)
    run, here = read_json(path / "run.json"), surroundings(config)
    same = not run["moved"] and all(run[key] == here[key] for key in MACHINE)
    exact = same and not torch.cuda.is_available()
    wanted = [recorded[step] for step in range(first, last + 1)]
    told = replay_verdict(wanted, recorded_steps(scratch, name), exact)
    models = [folder / config[name]["result"] for folder in (path, scratch)]
    best = config[name]["trainer"].get("load_best_model_at_end")  # of all steps
    left = exact and not best and models[1].is_dir()  # by the last step of a phase
    if left and len(set(map(weights_sha256, models))) > 1:
        told = f"DIFFERENT: weights in {models[0]}"
    print(f"replay: {told}, steps {first} to {last} of {name}, on {here['hardware']}")
    if told.startswith("DIFFERENT"):
        return 1
    shutil.rmtree(scratch)
    return 0


def replay_verdict(
    recorded: list[dict[str, Any]], again: dict[int, dict[str, Any]], exact: bool
) -> str:
    """IDENTICAL, WITHIN TOLERANCE or DIFFERENT, with the first quantity that differs.

    `exact`: the machine is one that repeats every rounding.
    """
    gap = 0.0
    for one in recorded:
        other = again.get(one["step"], {})
        pairs = {key: (one.get(key), other.get(key)) for key in EXACT + ROUNDED}
        if other and other["weights"] is None:  # of many only at some steps
            del pairs["weights"]
        differing = [key for key, (then, now) in pairs.items() if then != now]
        gap = max([gap, *(distance(*pairs[key]) for key in differing)])
        if differing and (exact or differing[0] in EXACT or not gap <= SIMILAR):
            return f"DIFFERENT: {differing[0]} of step {one['step']}"
        gap = max(gap, 1e-16 * bool(differing))
    return f"WITHIN TOLERANCE: {gap:.1e}" if gap else "IDENTICAL"


def chosen_steps(text: str, phases: list[str]) -> tuple[str, int, int]:
    """The phase and the steps of "PHASE:A:B"."""
    name, _, numbers = text.partition(":")
    first, _, last = numbers.partition(":")
    wrong = name not in phases or name in ("eval", "push")
    if wrong or not (
        first.isdigit() and last.isdigit() and 0 < int(first) <= int(last)
    ):
        remedy = "write PHASE:A:B, as in sft:120:124"
        raise UsageError(f"{text!r} names no steps", remedy=remedy)
    return name, int(first), int(last)


def recorded_steps(path: Path, phase: str) -> dict[int, dict[str, Any]]:
    """The records of the steps of a phase."""
    records = Run(path, phase, "auto").records("steps")
    return {one["step"]: one for one in records if one["phase"] == phase}


def prepare(path: Path, scratch: Path, phase: str, first: int) -> int:
    """What the phase starts from: earlier results, the checkpoint before `first`.

    The number of the step after that checkpoint.
    """
    own = path / "checkpoints" / phase
    states = checkpoints(own)
    before = [p for p in states if states[p]["global_step"] < first]
    nearest = max(before, key=lambda p: states[p]["global_step"], default=None)
    scratch.mkdir()
    for folder in (path / "checkpoints").iterdir():
        if folder != own:
            target = scratch / "checkpoints" / folder.name
            shutil.copytree(folder, target, copy_function=os.link)
    if nearest:
        target = scratch / "checkpoints" / phase / nearest.name
        shutil.copytree(nearest, target, copy_function=os.link)
    return 1 + (states[nearest]["global_step"] if nearest else 0)


def distance(one: Any, other: Any) -> float:
    """How far two quantities are apart, relative to the first; of digests, nothing."""
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max(
            (distance(a, b) for a, b in zip(one, other, strict=True)), default=0.0
        )
    numbers = isinstance(one, float) and isinstance(other, float)
    if not numbers:
        return 0.0 if isinstance(one, str) or one == other else float("inf")
    return float(abs(one - other) / max(abs(one), 1e-9))


# ---- wiring sha256:c6cc5ee3ecbd ------------------------------------------------------
def trained_model(tokenizer: Any, result: Path) -> Any:
    """The model as an earlier phase saved it."""
    source, options = CONFIG["model"], {**CONFIG["model"]["options"], "revision": None}
    return load_model({**source, "id": str(result), "options": options})


def sft_data(tokenizer: Any, settings: dict[str, Any]) -> Any:
    rows = builtin_rows(**settings["rows"])
    return sft_rows(rows, settings["data"], tokenizer)


def sft(run: Run) -> int:
    """Learn by example until the gate fires or the steps are used up."""
    from trl import SFTConfig, SFTTrainer

    class Trainer(ExactResume, SFTTrainer): ...

    check_hooks(SFTTrainer, CHECKPOINT_HOOKS)
    settings, tokenizer = CONFIG["sft"], builtin_tokenizer()
    rows = sft_data(tokenizer, settings)
    torch.manual_seed(CONFIG["seed"])
    model = builtin_model(tokenizer, CONFIG["seed"])
    trainer = Trainer(
        model,
        args=SFTConfig(**training_arguments(run, settings)),
        train_dataset=rows,
        processing_class=tokenizer,
    )
    gate = PhaseTransitionGate(**settings["gate"])
    watches = [GateWatch(trainer, gate, settings["metric"], settings["stop"])]
    parts = {"gate": gate}
    if not fit(trainer, run, settings, parts, watches):
        return 85
    run.summarise(gate_step=gate.step, gate_peak_entropy=gate.peak_entropy)
    if not gate.fired:
        run.say("gate: not fired; to go on all the same: python train.py --accept sft")
        return 1
    return 0


def grpo_data(tokenizer: Any, settings: dict[str, Any]) -> Any:
    rows = builtin_rows(**settings["rows"])
    return prepared(rows, settings["data"], tokenizer)


def task_rewards(settings: list[dict[str, Any]]) -> list[Any]:
    """The reward functions of the task, in the order of the spec."""
    makers = {
        "exact_answer": exact_answer_reward,
    }
    return [makers[item["name"]](item) for item in settings]


def grpo(run: Run) -> int:
    """Reinforce what the rewards prefer; the cascade decides when CARL joins."""
    from trl import GRPOConfig, GRPOTrainer

    class Trainer(CapturedScores, GRPOTrainer): ...

    check_hooks(GRPOTrainer, HOOKS)
    settings, tokenizer = CONFIG["grpo"], builtin_tokenizer()
    rows = grpo_data(tokenizer, settings)
    model = trained_model(tokenizer, run.path / CONFIG["sft"]["result"])
    rewards = task_rewards(settings["rewards"])
    rewards.append(CoherenceReward(head_width(model), settings["carl"]["weights"]))
    trainer = Trainer(
        model,
        rewards,
        args=GRPOConfig(**training_arguments(run, settings)),
        train_dataset=rows,
        processing_class=tokenizer,
    )
    trainer.record_in(run, settings["samples_every"], settings["maximum"])
    maximum = settings["maximum"]
    trainer.cascade = cascade = Cascade(maximum=maximum, **settings["cascade"])
    trainer.tie_weight = settings["carl"]["tie_weight"]
    parts = {"cascade": cascade}
    if not fit(trainer, run, settings, parts):
        return 85
    run.summarise(cascade_step=cascade.opened_at, stage=cascade.stage)
    if cascade.stage == "A":
        run.say("cascade: never opened; the run trained on the task rewards alone")
    return 0


def evaluate(run: Run) -> int:
    """Answer held-out items before and after GRPO; the scores decide the verdict."""
    settings, tokenizer = CONFIG["eval"], builtin_tokenizer()
    rows = builtin_rows(**settings["rows"])
    rows = prepared(rows, settings["data"], tokenizer)
    rewards, scores, phi = task_rewards(CONFIG["grpo"]["rewards"]), [], []
    for phase in ("sft", "grpo"):
        model = trained_model(tokenizer, run.path / CONFIG[phase]["result"])
        torch.manual_seed(CONFIG["seed"])
        answers = sample_answers(model, tokenizer, rows["prompt"][:], settings, run)
        scores.append(item_scores(answers, rows, rewards, settings["weights"]))
        phi.append(fmean(answer["phi"] for answer in answers))
    report = paired_verdict(*scores, settings, CONFIG["seed"])
    run.summarise(verdict=report["verdict"], evaluation={**report, "phi": phi})
    show_run(run)
    return {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3}[report["verdict"]]


def dry_run() -> int:
    """Print the plan and one row of each training phase, as the model sees it."""
    plan = {name: CONFIG[name] for name in CONFIG if name not in ("self_test", "spec")}
    print(json.dumps(plan, indent=2, ensure_ascii=False))
    tokenizer = builtin_tokenizer()
    answers_only = CONFIG["sft"]["trainer"].get("assistant_only_loss", False)
    show_row(tokenizer, sft_data(tokenizer, CONFIG["sft"])[0], answers_only)
    show_row(tokenizer, grpo_data(tokenizer, CONFIG["grpo"])[0])
    return 0


def self_test() -> int:
    """Recompute reference vectors on this machine."""
    vectors = {name: torch.tensor(x) for name, x in CONFIG["self_test"].items()}
    phi = order_parameter(vectors["entropy"], int(vectors["vocab_size"]))  # [B, T]
    found = {"phi": phi}
    field = token_field(vectors["logits"], vectors["token_ids"])  # [B, T] each
    found |= {"entropy": field[0], "log_probs": field[1]}
    found["reward"] = carl_reward(phi, vectors["log_probs"], vectors["mask"])  # [B]
    return compare(found, vectors)


def main() -> int:
    torch.set_num_threads(1)  # fastest at this size, and the same on any machine
    phases = {"sft": sft, "grpo": grpo, "eval": evaluate}
    os.environ.update(CONFIG["environment"])
    args = parse_arguments(__doc__, CONFIG["run_dir"])
    if args.self_test:
        return self_test()
    if args.dry_run:
        return guarded(dry_run, args.run_dir)
    if args.replay and not args.phase:
        return guarded(lambda: replay(args, CONFIG, list(phases)), args.run_dir)
    if args.phase:
        return work(args, phases[args.phase])
    return guarded(lambda: lead(args, CONFIG, phases), args.run_dir)


if __name__ == "__main__":
    sys.exit(main())
