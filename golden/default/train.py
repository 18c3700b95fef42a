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
- GRPO: an infinite reward is treated as missing (None).
- Each phase is a process of its own; what it leaves behind is in the run directory.

    python train.py                          on all visible GPUs, or on the CPU
    CUDA_VISIBLE_DEVICES=0 python train.py   on one GPU of several (no torchrun needed)
    python train.py                          again after a crash or code 85: resume
    python train.py --dry-run                print the plan and a row, train nothing
    python train.py --self-test              check the arithmetic of this machine
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
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
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import distributions
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

# ---- configuration sha256:e93883bb64cc -----------------------------------------------
CONFIG = {
    "name": "carl",
    "run_dir": "runs/carl",
    "seed": 42,
    "model": {
        "id": "builtin",
        "revision": None,
        "dtype": "auto",
        "adapter": False,
        "attention": None,
        "tokenizer": "builtin",
        "tokenizer_revision": None,
        "loading": {},
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
            "skip_last": 0,
            "take_last": 0,
        },
        "bf16": False,
        "keep": 2,
        "result": "checkpoints/sft/model",
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
            "gradient_checkpointing": False,
            "save_strategy": "steps",
            "report_to": "none",
            "disable_tqdm": True,
            "save_total_limit": None,
            "seed": 42,
        },
        "rows": 25600,
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
            "columns": {},
            "limit": None,
            "system_prompt": None,
            "skip_last": 0,
            "take_last": 0,
        },
        "bf16": False,
        "keep": 2,
        "result": "model",
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
            "gradient_checkpointing": False,
            "num_generations": 8,
            "max_completion_length": 8,
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": 0,
            "beta": 0.0,
            "loss_type": "dapo",
            "scale_rewards": "group",
            "num_iterations": 1,
            "steps_per_generation": 1,
            "mask_truncated_completions": False,
            "multi_objective_aggregation": "sum_then_normalize",
            "save_strategy": "steps",
            "report_to": "none",
            "disable_tqdm": True,
            "save_total_limit": None,
            "seed": 42,
            "reward_weights": [
                1.0,
                0.5,
            ],
        },
        "rows": 1280,
        "samples_every": 10,
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
            "maximum": 1.0,
        },
    },
    "eval": {
        "data": {
            "id": "builtin",
            "revision": None,
            "config": None,
            "split": "train",
            "columns": {},
            "limit": 1000,
            "system_prompt": None,
            "skip_last": 0,
            "take_last": 0,
        },
        "temperature": 1.0,
        "batch_size": 250,
        "max_new_tokens": 8,
        "item_pass": 1.0,
        "alpha": 0.05,
        "weights": [
            1.0,
        ],
        "rows": 1000,
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


# ---- carl_runtime_min/run.py sha256:853b64690248 -------------------------------------
COMPLETE = "complete.json"  # written last: what lies beside it is whole


def write_json(path: Path, value: Any) -> None:
    """Replace `path` in one step: readers see the old file or the new, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("w") as file:
            json.dump(json_value(value), file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """The JSON value in `path`, or None if there is no such file."""
    return json.loads(path.read_bytes()) if path.is_file() else None


def complete_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints that were written to the end, oldest first."""
    found = [mark.parent for mark in folder.glob(f"checkpoint-*/{COMPLETE}")]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


class RunDir:
    """The directory of one run, as one phase sees it. Only rank 0 writes."""

    def __init__(self, path: Path, phase: str, rank: int, resume: str) -> None:
        self.path, self.phase, self.rank, self.resume = path, phase, rank, resume
        self.checkpoints = path / "checkpoints" / phase

    def append(self, name: str, record: dict[str, Any]) -> None:
        """Add a line to `<name>.jsonl`."""
        if self.rank == 0:
            record = json_value({"phase": self.phase, **record})
            with (self.path / f"{name}.jsonl").open("a") as file:
                file.write(json.dumps(record) + "\n")

    def records(self, name: str) -> list[dict[str, Any]]:
        """The lines of `<name>.jsonl`; one that a crash tore is left out."""
        path = self.path / f"{name}.jsonl"
        lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
        return [json.loads(line) for line in lines]

    def rewind(self, step: int) -> None:
        """Forget what this phase did after `step`: it is about to happen again."""
        for folder in complete_checkpoints(self.checkpoints) if self.rank == 0 else ():
            if read_json(folder / COMPLETE)["step"] > step:
                (folder / COMPLETE).unlink()
        for folder in self.checkpoints.glob("checkpoint-*") if self.rank == 0 else ():
            if not (folder / COMPLETE).is_file():  # half written, or taken back
                shutil.rmtree(folder)
        for path in self.path.glob("*.jsonl") if self.rank == 0 else ():
            with path.with_suffix(".draft").open("w") as file:
                for record in self.records(path.stem):
                    if record["phase"] != self.phase or record["step"] <= step:
                        file.write(json.dumps(record) + "\n")
            path.with_suffix(".draft").replace(path)

    def start(self) -> Path | None:
        """The checkpoint to continue from, or None to start afresh."""
        last = next(reversed(complete_checkpoints(self.checkpoints)), None)
        chosen = Path(self.resume).resolve()
        if self.resume in ("auto", "never"):
            return last
        if not (chosen / COMPLETE).is_file():
            remedy = f"choose one under {self.checkpoints}"
            raise UsageError(f"{self.resume} is no complete checkpoint", remedy=remedy)
        return chosen if chosen.parent.name == self.phase else last

    def summarise(self, **facts: Any) -> None:
        """Add `facts` to summary.json."""
        if self.rank == 0:
            path = self.path / "summary.json"
            write_json(path, {**(read_json(path) or {}), **facts})


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_sha256(folder: Path) -> str:
    """Digest of all tensors in `folder`: name, type, shape and bytes, in name order."""
    from safetensors import safe_open

    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as tensors:
            for name in sorted(tensors.keys()):
                tensor = tensors.get_tensor(name).contiguous()
                digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
                digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def claim(path: Path, facts: dict[str, Any], resume: str) -> int:
    """Lock the run directory and check that it belongs to this very run.

    Returns the descriptor that holds the lock until the last process with it ends.
    `facts` are what must not change between start and resume, most telling first.
    """
    path.mkdir(parents=True, exist_ok=True)
    lock = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    remedy = "use --run-dir DIR"
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UsageError(f"a process is running in {path}", remedy=remedy) from error
    recorded = read_json(path / "run.json")
    if recorded and resume == "never":
        raise UsageError(f"{path} holds a run already", remedy=remedy)
    for key, now in facts.items() if recorded else ():
        if recorded.get(key) != now:
            then = f"{path} was started with {key} {recorded.get(key)}"
            raise UsageError(f"{then}, this run has {now}", remedy=remedy)
    return lock


# ---- carl_runtime_min/field.py sha256:c0be732b022d -----------------------------------
CHUNK = 1 << 20  # logits worked on at once: two float32 scratch buffers of 4 MB


@torch.no_grad()
def token_field(
    logits: Tensor, token_ids: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Entropy and log-probability where each token was chosen.

    With m = max z, s = sum e^(z-m) and t = sum e^(z-m)(z-m): H = log s - t/s and
    log p = (z - m) - log s. Taking m off first keeps float32 exact at any level.

    Args:
        logits: [..., V]; row i predicts token i.
        token_ids: [...], int64 in [0, V).
        temperature: The policy is softmax(logits / temperature).

    Returns:
        (entropy in [0, ln V], log_probs), each [...], float32, nats. Both are NaN
        where a row holds NaN or +inf, or nothing but -inf.
    """
    if not temperature > 0:
        raise UsageError(f"temperature must be positive, not {temperature}")
    vocab = logits.shape[-1]
    rows, ids = logits.reshape(-1, vocab), token_ids.reshape(-1, 1)  # [N, V], [N, 1]
    n = min(len(rows), CHUNK // vocab) or 1
    new = partial(torch.empty, dtype=torch.float32, device=logits.device)
    scratch, entropy, log_probs = new(2, n, vocab), new(len(rows)), new(len(rows))
    for start in range(0, len(rows), n):
        here = slice(start, start + n)
        z, e = scratch[:, : len(rows[here])]  # [n, V] each
        z.copy_(rows[here]).div_(temperature)
        z -= z.amax(-1, keepdim=True)
        chosen = z.gather(-1, ids[here]).squeeze(-1)  # [n]
        z.clamp_(min=-200)  # e^-200 is 0 in float32, and 0 * -200 is 0: 0 * -inf is not
        s = torch.exp(z, out=e).sum(-1)  # [n]
        t = e.mul_(z).sum(-1)  # [n]
        entropy[here] = (s.log() - t / s).clamp(max=math.log(vocab))
        log_probs[here] = chosen - s.log()
    return entropy.reshape(token_ids.shape), log_probs.reshape(token_ids.shape)


def order_parameter(entropy: Tensor, vocab_size: int) -> Tensor:
    """Phi = 1 - H / ln V in [0, 1], float64, [...]; NaN where H is not finite.

    The thresholds of the reward sit at 0.5 and 0.7, so every caller takes Phi from
    here, in this one precision. `vocab_size` is the width of the output head.
    """
    if vocab_size < 2:
        raise UsageError(f"Phi needs at least two tokens to choose from: {vocab_size}")
    phi = 1 - entropy.double() / math.log(vocab_size)
    return phi.clamp(0, 1).where(entropy.isfinite(), math.nan)


# ---- carl_runtime_min/rewards.py sha256:4353f6487a95 ---------------------------------
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
    """R_CARL of each completion, [B] float64; `weights` in the order of Components.

    0.0 for a completion without tokens, NaN for one with a value that is not finite.
    The other arguments are those of `coherence_components`.
    """
    a, b, c = weights
    parts = coherence_components(phi, log_probs, mask, junctions)
    reward = a * parts.coherence + b * parts.cloud + c * parts.discontinuity
    return reward.where(mask.bool().any(-1), 0.0)


def coherence_components(
    phi: Tensor, log_probs: Tensor, mask: Tensor, junctions: Tensor | None = None
) -> Components:
    """The components of a right-padded batch of completions.

    Args:
        phi, log_probs: [B, T]; padding may hold anything.
        mask: [B, T], true on the completion's tokens, which come first in the row.
        junctions: [B, T], true at t where tokens were removed between t-1 and t, so
            that the change from t-1 to t is no transition. Default: nowhere.

    Raises:
        UsageError: Shapes differ, or the mask is not right-padded (the one time the
            host waits for the device).
    """
    if not phi.shape == log_probs.shape == mask.shape or phi.dim() != 2:
        raise UsageError("phi, log_probs and mask must share one shape [B, T]")
    mask = mask.bool()
    if (mask[:, 1:] & ~mask[:, :-1]).any():
        raise UsageError(
            "the mask is not right-padded",
            remedy="move the policy's tokens to the front of their rows",
        )
    length = mask.sum(-1)  # [B]
    phi = phi.where(mask, 0.0).double()
    log_probs = log_probs.where(mask, 0.0).double()
    broken = ~(phi.sum(-1) + log_probs.sum(-1)).isfinite()  # [B]
    linked = mask[:, 1:]  # [B, T - 1]
    if junctions is not None:
        linked = linked & ~junctions[:, 1:].bool()
    parts = Components(
        coherence=_coherence(scale_coherence(phi, length)),
        cloud=(log_probs.exp() * phi).sum(-1) / length.clamp(min=1),
        discontinuity=_discontinuity(phi, linked),
    )
    return Components(*(part.masked_fill(broken, math.nan) for part in parts))


def scale_coherence(phi: Tensor, length: Tensor) -> Tensor:
    """c_j over blocks of 2^j tokens: [B, T], [B] -> [B, scales], NaN without a block.

    c_j = 1 - mean population standard deviation of the complete blocks. Neighbouring
    blocks merge by Chan's update, so all scales together cost O(BT).
    """
    scales = min(phi.shape[-1].bit_length(), MAX_SCALE + 1)
    c = phi.new_ones(len(phi), scales)  # one token alone does not deviate: c_0 = 1
    c.masked_fill_(length[:, None] == 0, math.nan)
    mean, variance = phi, torch.zeros_like(phi)  # of each block
    for j in range(1, scales):
        n = mean.shape[-1] // 2 * 2
        a, b = mean[:, 0:n:2], mean[:, 1:n:2]  # [B, n / 2] each
        apart = (a - b) / 2
        variance = (variance[:, 0:n:2] + variance[:, 1:n:2]) / 2 + apart**2
        mean = (a + b) / 2
        blocks = length // 2**j  # [B]
        complete = torch.arange(mean.shape[-1], device=phi.device) < blocks[:, None]
        spread = (variance.sqrt() * complete).sum(-1) / blocks  # [B], 0/0 is NaN
        c[:, j] = (1 - spread).clamp(min=0)
    return c


def _coherence(c: Tensor) -> Tensor:
    """Mean of c_j under the weights 2^(j/2); 0.5 where there is no scale."""
    j = torch.arange(c.shape[-1], device=c.device, dtype=c.dtype)
    weight = 2 ** (j / 2) * ~c.isnan()  # [B, scales]
    return ((weight * c.nan_to_num()).sum(-1) / weight.sum(-1)).nan_to_num(nan=0.5)


def _discontinuity(phi: Tensor, linked: Tensor) -> Tensor:
    """Mean worth of the transitions, 0.5 without any: [B, T], [B, T-1] -> [B]."""
    before, change = phi[:, :-1], phi[:, 1:] - phi[:, :-1]
    rising, falling = linked & (change > DELTA), linked & (change < -DELTA)
    low, high = before < 0.5, before > 0.7

    def count(places: Tensor) -> Tensor:
        return places.sum(-1).double()  # [B]

    worth = 0.8 * count(rising & low) + 0.3 * count(rising & ~low)
    worth = worth + 0.2 * count(falling & high) + 0.5 * count(falling & ~high)
    return (worth / count(rising | falling)).nan_to_num(nan=0.5)


# ---- carl_runtime_min/gate.py sha256:53b850099604 ------------------------------------
def percentile(values: list[float], q: float) -> float:
    """The q-th quantile (q in [0, 1]) of `values`, linear between order statistics."""
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    below, above = ordered[math.floor(position)], ordered[math.ceil(position)]
    return below + position % 1 * (above - below)


class Gate:
    """A gate that fires once. What makes it fire is `crossed`, of each kind.

    Args:
        keep: How many of the latest values it stores, None for all.

    Attributes:
        fired: Whether it has fired.
        step: The step at which it fired, else None.
        peak_entropy: The highest entropy seen up to then, nats, None without any.
    """

    def __init__(self, keep: int | None) -> None:
        self.values: deque[float] = deque(maxlen=keep)
        self.observed = 0
        self.fired = False
        self.step: int | None = None
        self.peak_entropy: float | None = None

    def check(
        self, value: float | None, entropy: float | None = None, step: int | None = None
    ) -> bool:
        """Take in one value; True at the one observation that fires the gate.

        A value that is None or not finite is no observation, and nothing is taken in
        after the gate has fired. `step` defaults to the number of observations.
        """
        if self.fired or value is None or not math.isfinite(value):
            return False
        self.values.append(float(value))
        self.observed += 1
        if entropy is not None and math.isfinite(entropy):
            peak = self.peak_entropy
            self.peak_entropy = entropy if peak is None else max(peak, entropy)
        self.fired = self.crossed()
        if self.fired:
            self.step = self.observed if step is None else step
        return self.fired

    def crossed(self) -> bool:
        """Whether the stored values fire the gate."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON values."""
        return {
            "values": list(self.values),
            "observed": self.observed,
            "fired": self.fired,
            "step": self.step,
            "peak_entropy": self.peak_entropy,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the `state_dict()` of a gate with the same arguments."""
        self.values.clear()
        self.values.extend(state["values"])
        self.observed, self.fired = state["observed"], state["fired"]
        self.step, self.peak_entropy = state["step"], state["peak_entropy"]


class PhaseTransitionGate(Gate):
    """Fires when `min_above` of the last `window` values are at least `threshold`.

    It does not wait for the window to fill.

    Raises:
        UsageError: `threshold` is not finite, or `min_above` not in [1, window].
    """

    def __init__(
        self, threshold: float = 0.99, window: int = 5, min_above: int = 3
    ) -> None:
        if not math.isfinite(threshold):
            raise UsageError(f"the gate's threshold must be finite, not {threshold}")
        if not 1 <= min_above <= window:
            raise UsageError(
                f"the gate's min_above must be from 1 to its window of {window}, "
                f"not {min_above}"
            )
        super().__init__(keep=window)
        self.threshold, self.min_above = threshold, min_above

    def crossed(self) -> bool:
        """Whether the stored values fire the gate."""
        return sum(value >= self.threshold for value in self.values) >= self.min_above


# ---- carl_runtime_min/cascade.py sha256:617e09a63fc5 ---------------------------------
LAST = 10  # observations that have to agree


class Cascade:
    """Decides when CARL joins the task rewards, and with what weight.

    With `carl_start` it is fixed: stage B from that step. Without, it is adaptive and
    opens when all of the last 10 observations exceed the 60th percentile of those
    before them ("rising", from the 20th on), or when 10 in a row come within a tenth
    of `maximum` ("solved"). A generation's own metric decides from the next one on.

    Args:
        carl_weight: Weight of R_CARL after the ramp.
        warmup_steps: Length of the linear ramp.
        carl_start: First step of stage B, for a fixed cascade.
        open_by: First step of stage B at the latest, for an adaptive one.
        maximum: The most the weighted task rewards can sum to, None if unbounded.

    Attributes:
        opened_at: The step of the first generation in stage B, else None.
        reason: "fixed", "rising", "solved" or "open_by", else None.
        threshold: The level that the last 10 observations had or have to exceed.
    """

    def __init__(
        self,
        carl_weight: float = 0.5,
        warmup_steps: int = 10,
        carl_start: int | None = None,
        open_by: int | None = None,
        maximum: float | None = None,
    ) -> None:
        if not (carl_weight > 0 and math.isfinite(carl_weight)):
            raise UsageError(f"carl_weight must be positive and finite: {carl_weight}")
        for name, value, least in (
            ("warmup_steps", warmup_steps, 1),
            ("carl_start", carl_start, 0),
            ("open_by", open_by, 0),
        ):
            if value is not None and value < least:
                raise UsageError(f"{name} must be at least {least}, not {value}")
        self.carl_weight, self.warmup_steps = carl_weight, warmup_steps
        self.carl_start, self.open_by, self.maximum = carl_start, open_by, maximum
        self.history: list[float] = []
        self.decision: str | None = None
        self.reason: str | None = None
        self.opened_at: int | None = None
        self.threshold: float | None = None

    @property
    def stage(self) -> str:
        """ "A" (task rewards) or "B" (task rewards and CARL)."""
        return "A" if self.opened_at is None else "B"

    def begin(self, step: int) -> None:
        """A generation starts at `step`: what was decided before takes effect."""
        if self.opened_at is not None:
            return
        if self.carl_start is not None:
            self.decision = "fixed" if step >= self.carl_start else None
        elif self.open_by is not None and step >= self.open_by:
            self.decision = self.decision or "open_by"
        if self.decision:
            self.reason, self.opened_at = self.decision, step

    def observe(self, metric: float | None, step: int) -> None:
        """Take in one generation's mean weighted task reward, before its CARL reward.

        Calls `begin(step)` first, so `stage` afterwards is this generation's. A metric
        that is None or not finite is no observation.
        """
        self.begin(step)
        adaptive = self.stage == "A" and self.carl_start is None
        if adaptive and metric is not None and math.isfinite(metric):
            self.history.append(float(metric))
            self.decide()

    def decide(self) -> None:
        """Apply the adaptive rule to the history."""
        earlier, last = self.history[:-LAST], self.history[-LAST:]
        if len(earlier) >= LAST:
            self.threshold = percentile(earlier, 0.6)
            if min(last) > self.threshold:
                self.decision = "rising"
        if self.maximum is not None and len(last) >= LAST:
            close = self.maximum - 0.1 * abs(self.maximum)
            if min(last) >= close:
                self.decision = "solved"

    def weight(self, step: int) -> float:
        """Weight of R_CARL: 0 in stage A, then the ramp, then `carl_weight`."""
        if self.opened_at is None:
            return 0.0
        done = (step - self.opened_at + 1) / self.warmup_steps
        return self.carl_weight * min(1.0, max(0.0, done))

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs, as JSON values."""
        return {
            "history": list(self.history),
            "decision": self.decision,
            "reason": self.reason,
            "opened_at": self.opened_at,
            "threshold": self.threshold,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()` of a cascade with the same arguments."""
        self.history = list(state["history"])
        self.decision, self.reason = state["decision"], state["reason"]
        self.opened_at, self.threshold = state["opened_at"], state["threshold"]


def damp_ties(
    advantages: Tensor,
    task_rewards: Tensor,
    num_generations: int,
    factor: float,
    weights: Tensor | None = None,
) -> Tensor:
    """Shrink the advantages of groups that the task rewards cannot tell apart.

    Normalisation within a group gives CARL full-size advantages there, whatever its
    weight. With factor = weight(step) / carl_weight * tie_weight the ramp holds in
    such groups too.

    Args:
        advantages: [B], after normalisation; the rows of a group are adjacent.
        task_rewards: [B], or [B, F] with one column a function; NaN is no reward.
        num_generations: Rows in a group.
        factor: What to multiply by.
        weights: [F], of the columns. Default: 1 each.

    Returns:
        [B]. Rows whose task rewards are all NaN take no part in the comparison.
    """
    if task_rewards.dim() == 1:
        task_rewards = task_rewards[:, None]
    absent = task_rewards.isnan().all(-1)  # [B]
    if weights is not None:
        task_rewards = task_rewards * weights.to(task_rewards)
    total = task_rewards.nansum(-1)  # [B]
    lowest = total.masked_fill(absent, math.inf).view(-1, num_generations).amin(-1)
    highest = total.masked_fill(absent, -math.inf).view(-1, num_generations).amax(-1)
    tied = torch.isclose(highest, lowest, rtol=1e-6)  # [groups]
    return advantages.where(
        ~tied.repeat_interleave(num_generations), advantages * factor
    )


# ---- carl_runtime_min/verdict.py sha256:dea033d05c4d ---------------------------------
def binomial_tail(k: int, n: int, p: float) -> float:
    """P(X >= k) for X ~ Binomial(n, p), with 0 <= k <= n and 0 < p < 1."""
    if k == 0:
        return 1.0
    if k <= n * p:  # the tail below k is the shorter one
        return 1.0 - binomial_tail(n - k + 1, n, 1 - p)
    log_choose = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    term = math.exp(log_choose + k * math.log(p) + (n - k) * math.log1p(-p))
    total = 0.0
    while total + term > total:  # beyond the mean the terms only shrink
        total += term
        term *= (n - k) / (k + 1) * (p / (1 - p))
        k += 1
    return total


def mcnemar(gained: int, lost: int) -> tuple[float, float]:
    """Exact McNemar test on the items that changed sides.

    Returns:
        p of "more gained than lost" (one-sided), and p of "any difference".
    """
    changed = gained + lost
    improved = binomial_tail(gained, changed, 0.5)
    worsened = binomial_tail(lost, changed, 0.5)
    return improved, min(1.0, 2 * min(improved, worsened))


def paired_bootstrap(
    before: Sequence[float],
    after: Sequence[float],
    alpha: float,
    seed: int,
    resamples: int = 2000,
) -> tuple[float, float]:
    """Percentile interval, of coverage 1 - alpha, of mean(after) - mean(before)."""
    changes = [b - a for a, b in zip(before, after, strict=True)]
    draw = random.Random(seed)
    means = sorted(
        fmean(draw.choices(changes, k=len(changes))) for _ in range(resamples)
    )
    cut = math.floor(resamples * alpha / 2)
    return means[cut], means[-1 - cut]


# ---- carl_runtime_min/tasks.py sha256:50a03ed584da -----------------------------------
def completion_text(completion: str | list[dict[str, Any]]) -> str:
    """The text of a plain completion, or of the last message of a conversation."""
    if isinstance(completion, str):
        return completion
    content = completion[-1].get("content") if completion else ""
    return content if isinstance(content, str) else ""


class TaskReward:
    """A scorer of one completion, as a TRL reward function over a batch.

    `scorer` takes the text, the number of tokens and the row's `column`, and gives a
    score, or None where the row cannot be scored.
    """

    def __init__(
        self, name: str, scorer: Callable[..., float | None], column: str = ""
    ) -> None:
        self.__name__, self.scorer, self.column = name, scorer, column

    def __call__(
        self, completions: list[Any], completion_ids: list[Any], **columns: Any
    ) -> list[float | None]:
        if self.column and self.column not in columns:
            remedy = f"set data.columns.{self.column} to the name of your column"
            message = f"reward {self.__name__}: the data has no column {self.column!r}"
            raise UsageError(message, remedy=remedy)
        expected = columns.get(self.column, completions)
        texts, counts = map(completion_text, completions), map(len, completion_ids)
        return list(map(self.scorer, texts, counts, expected))


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


# ---- carl_runtime_min/data.py sha256:a7ee181da01b ------------------------------------
def prepared(
    rows: Any, source: dict[str, Any], needed: Sequence[str], tokenizer: Any
) -> Any:
    """Rename columns to ours, choose the rows, turn plain text into conversations.

    Text stays text for a tokenizer without a chat template. A prompt that is a whole
    conversation loses its last answer.
    """
    names = {theirs: ours for ours, theirs in source["columns"].items()}
    wanted = [*names, *(name for name in needed if name not in names.values())]
    absent = [name for name in wanted if name not in rows.column_names]
    if absent or len(rows) <= source["skip_last"]:
        raise UsageError(
            f"{source['id']}: no column {absent[0]!r}" if absent else "too few rows",
            remedy=f"map columns under data.columns; there are {rows.column_names}",
        )
    hidden = [x for x in names.values() if x in rows.column_names and x not in names]
    rows = rows.remove_columns(hidden)
    rows = rows.rename_columns({a: b for a, b in names.items() if a != b})
    keep = range(len(rows))[-source["take_last"] :]  # from -0: all
    rows = rows.select(keep[: len(keep) - source["skip_last"]][: source["limit"]])
    system = [{"role": "system", "content": source["system_prompt"]}]
    roles = {"prompt": "user", "completion": "assistant", "messages": "user"}
    remedy = "every row needs text or a list of messages there"

    def converse(row: dict[str, Any]) -> dict[str, Any]:
        shaped = {}
        for name in sorted(roles.keys() & row.keys()):
            text = row[name]
            if name == "completion" and isinstance(text, int | float):
                text = str(text)
            if not isinstance(text, str | list) or text == []:
                raise UsageError(f"{source['id']}: a {name} is {text!r}", remedy=remedy)
            if isinstance(text, str):
                text = [{"role": roles[name], "content": text}]
            if name == "prompt" and text[-1]["role"] == "assistant":
                text = text[:-1]
            own = name == "completion" or text[0]["role"] == "system"
            shaped[name] = text if own or not source["system_prompt"] else system + text
        return shaped

    if tokenizer.chat_template:
        return rows.map(converse)
    if not isinstance(rows[0][needed[0]], str):
        remedy = "use a chat model or its tokenizer (model.tokenizer), or plain text"
        raise UsageError("conversations need a chat template", remedy=remedy)
    return rows


def sft_rows(rows: Any, source: dict[str, Any], tokenizer: Any) -> Any:
    """Rows for SFT: `messages`, or `prompt` with `completion` (else `answer`)."""
    columns = {**{name: name for name in rows.column_names}, **source["columns"]}
    pairs = "messages" not in columns or "prompt" in source["columns"]
    needed = ["prompt", "completion"] if pairs else ["messages"]
    if needed[-1] not in columns and "answer" in columns:
        columns["completion"] = columns["answer"]
    source = {**source, "columns": {name: columns.get(name, name) for name in needed}}
    return prepared(rows, source, needed, tokenizer).select_columns(needed)


# ---- carl_runtime_min/models.py sha256:cc5d2d3e3065 ----------------------------------
def load_model(source: dict[str, Any]) -> Any:
    """The model at its pinned revision; `auto` is bfloat16 for adapters on CUDA."""
    from transformers import AutoModelForCausalLM

    dtype = source["dtype"]
    if dtype == "auto":
        half = source["adapter"] and torch.cuda.is_available()
        dtype = "bfloat16" if half else "float32"
    return AutoModelForCausalLM.from_pretrained(
        source["id"],
        revision=source["revision"],
        dtype=dtype,
        attn_implementation=source["attention"],
        **source["loading"],
    )


# ---- carl_runtime_min/supervisor.py sha256:7fe56c7dac98 ------------------------------
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def supervise(command: list[str], path: Path, lock: int, processes: int = 1) -> int:
    """Run one phase in a process group of its own; return the code that it wrote.

    The first signal asks the phase to checkpoint and stop, a second one ends the group.
    Several processes run under torchrun, which passes no signal on without ending them:
    the stop file asks them, and torchrun itself is deaf.
    """
    launcher, asking = [sys.executable], path / "stop"
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone"]
        launcher += ["--nproc_per_node", str(processes), "--signals_to_handle=SIGQUIT"]
    (path / "exit.json").unlink(missing_ok=True)
    asking.unlink(missing_ok=True)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # inherited by torchrun
    child = subprocess.Popen(
        launcher + command,
        env={
            **os.environ,
            "CARL_SUPERVISOR": str(os.getpid()),
            "CARL_STOP": str(asking),
        },
        start_new_session=True,
        pass_fds=(lock,),
    )
    received = []

    def forward(number: int, frame: Any) -> None:
        received.append(number)
        asking.touch()
        if processes == 1 or len(received) > 1:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, number if len(received) == 1 else signal.SIGKILL)

    for number in STOP_SIGNALS:
        signal.signal(number, forward)
    status = child.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # whatever the phase left behind
    report = read_json(path / "exit.json")
    asked = 130 if signal.SIGINT in received else 85
    if report is None:
        raise CarlError(
            f"the phase ended with status {status}"
            + " (killed: out of memory?)" * (status == -signal.SIGKILL),
            remedy="run the same command again: it goes on from the last checkpoint",
            exit_code=asked if received else 70,
        )
    return 85 if received and report["code"] == 0 else int(report["code"])


class StopRequest:
    """A polite request to stop: a signal, the stop file, or the supervisor is gone."""

    def __init__(self) -> None:
        self.received, self.parent = 0, int(os.environ.get("CARL_SUPERVISOR", 0))
        for number in STOP_SIGNALS:
            signal.signal(number, self.note)

    def note(self, number: int, frame: Any) -> None:
        if self.received:
            os._exit(85)  # asked twice: at once; the last checkpoint is whole
        self.received = number

    def asked(self) -> bool:
        try:
            os.kill(self.parent or os.getpid(), 0)
        except ProcessLookupError:
            return True
        return bool(self.received) or Path(os.environ.get("CARL_STOP", "-")).exists()


# ---- carl_runtime_min/fit.py sha256:3dd3654db0ec -------------------------------------
SHOWN = ("loss", "mean_token_accuracy", "reward", "phi", "carl/weight")


def head_width(model: Any) -> int:
    """V: the rows of the output head, padding included."""
    return int(model.get_output_embeddings().weight.shape[0])


def training_arguments(run: RunDir, settings: dict[str, Any]) -> dict[str, Any]:
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


class Observer:
    """A trainer callback: every event it does not define is ignored."""

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("on_"):
            raise AttributeError(name)
        return lambda *args, **kwargs: None


class Recorder(Observer):
    """Records metrics with Φ, completes checkpoints, heeds requests to stop.

    `state` holds what must survive a resume beside the trainer's own state: objects
    with `state_dict()`, by name. The newest `keep` checkpoints stay.
    """

    def __init__(
        self, run: RunDir, width: int, state: dict[str, Any], keep: int, stop: Any
    ) -> None:
        self.run, self.width, self.state = run, width, state
        self.keep, self.stop, self.asked, self.stopped = keep, stop, False, False

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        logs, step = kwargs["logs"], state.global_step
        if "train_runtime" in logs:  # the trainer's farewell, not a step
            return
        if logs.get("entropy") is not None:  # Φ is linear in H: the mean carries over
            entropy = torch.tensor(logs["entropy"])
            logs["phi"] = order_parameter(entropy, self.width).item()
        self.run.append("metrics", {"step": step, **logs})
        facts = [f"{key} {logs[key]:.3f}" for key in SHOWN if logs.get(key) is not None]
        if self.run.rank == 0:
            print(f"{self.run.phase} {step}/{state.max_steps} ", *facts, flush=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        asked = torch.tensor(float(self.stop.asked()), device=args.device)
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(asked)  # all ranks stop after the same step
        if asked.item():
            self.asked = control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        finished = control.should_training_stop  # by the last step or the gate
        if self.asked and not finished:
            self.stopped = control.should_training_stop = True
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        if self.run.rank == 0:
            folder = self.run.checkpoints / f"checkpoint-{state.global_step}"
            states = {name: item.state_dict() for name, item in self.state.items()}
            mark = {"step": state.global_step, "finished": finished, **states}
            write_json(folder / COMPLETE, mark)
            for old in complete_checkpoints(self.run.checkpoints)[: -self.keep]:
                (old / COMPLETE).unlink()  # first: a crash must not leave half of one
                shutil.rmtree(old)


@contextlib.contextmanager
def nothing_half_written(run: RunDir, result: Path) -> Iterator[None]:
    """After an error, remove what was being written; tell of a full disk plainly."""
    try:
        yield
    except Exception as error:
        full = "No space left" in str(error) or not shutil.disk_usage(run.path).free
        for folder in (*run.checkpoints.glob("checkpoint-*"), result):
            if not (folder / COMPLETE).is_file():
                shutil.rmtree(folder, ignore_errors=True)
        if not full:
            raise
        raise CarlError(
            f"no space left for {run.path}",
            remedy="free some, then run the same command: it goes on where it was",
            exit_code=4,
        ) from error


def fit(
    trainer: Any,
    run: RunDir,
    settings: dict[str, Any],
    state: dict[str, Any],
    stop: StopRequest,
    callbacks: Sequence[Any] = (),
) -> bool:
    """Train until the last step, the gate or a request to stop; was it finished?

    A finished phase leaves its model, one that was stopped a checkpoint.
    """
    from transformers import PrinterCallback

    recorder = Recorder(run, head_width(trainer.model), state, settings["keep"], stop)
    trainer.remove_callback(PrinterCallback)
    for callback in (recorder, *callbacks):
        trainer.add_callback(callback)
    start = run.start()
    saved = read_json(start / COMPLETE) if start else {"step": 0, "finished": False}
    run.rewind(saved["step"])
    if start is not None:
        for name, item in state.items():
            item.load_state_dict(saved[name])
        if run.rank == 0:
            print(f"{run.phase}: continuing after step {saved['step']}", flush=True)
    result = run.path / settings["result"]
    with nothing_half_written(run, result):
        if saved["finished"]:  # a crash kept the result from being saved
            trainer._load_from_checkpoint(str(start))
        else:
            trainer.train(resume_from_checkpoint=str(start) if start else None)
        if not recorder.stopped:
            trainer.save_model(str(result))
            if run.rank == 0:
                run.summarise(weights_sha256=weights_sha256(result))
    return not recorder.stopped


# ---- carl_runtime_min/gate_watch.py sha256:043bd65ee644 ------------------------------
class GateWatch(Observer):
    """One observation per optimizer step, however rarely the run logs.

    The trainer keeps one value per micro-batch until it logs, which comes after this
    event: the last `gradient_accumulation_steps` values are this step's.
    """

    def __init__(self, trainer: Any, gate: Gate, metric: str, stop: bool) -> None:
        self.trainer, self.gate, self.metric, self.stop = trainer, gate, metric, stop

    def step_mean(self, name: str) -> float | None:
        count = self.trainer.current_gradient_accumulation_steps
        values = self.trainer._metrics["train"].get(name, [])[-count:]
        return sum(values) / len(values) if values else None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        value, entropy = self.step_mean(self.metric), self.step_mean("entropy")
        if self.gate.check(value, entropy, state.global_step):
            print(f"gate: fired at step {state.global_step}, {self.metric} {value:.3f}")
            if self.stop:
                control.should_save = control.should_training_stop = True


# ---- carl_runtime_min/grpo.py sha256:105570d73a91 ------------------------------------
SAMPLES = 4  # completions recorded at a time
HOOKS = {
    "_generate": "prompts",
    "_generate_and_score_completions": "inputs",
    "_calculate_rewards": "inputs, prompts, completions, completion_ids_list",
    "_get_per_token_logps_and_entropies": "model, input_ids, attention_mask, "
    "logits_to_keep, batch_size, compute_entropy",
}


def check_hooks(trainer_class: type) -> None:
    """Stop if TRL's private methods are not the ones this script was written for."""
    for name, expected in HOOKS.items():
        method = getattr(trainer_class, name, None)
        found = ", ".join(
            list(inspect.signature(method).parameters)[1:] if method else []
        )
        if not f"{found}, ".startswith(f"{expected}, "):
            raise CarlError(
                f"TRL's {trainer_class.__name__}.{name} takes ({found})",
                remedy="install the TRL version pinned at the top of this script",
                exit_code=4,
            )


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
        rewards = carl_reward(phi, log_probs, mask, self.weights, joints)  # [B]
        return [None if reward != reward else reward for reward in rewards.tolist()]


class SampledGRPO:
    """Mixin: keeps the sampled tokens, bars infinite rewards, records samples."""

    def record_in(self, run: RunDir, every: int) -> None:
        """Write samples to `run` at each `every`-th step."""
        self.run, self.samples_every = run, every

    def _generate(self, prompts: list[Any]) -> Any:
        generated = super()._generate(prompts)
        self.prompt_ids, self.completion_ids, self.tool_mask = generated[:3]
        return generated

    @torch.no_grad()
    def score(self, count: int | None = None) -> list[dict[str, torch.Tensor]]:
        """The field of the first `count` completions (None: of all), by one forward.

        Dropout is off. Tokens of tools are context: they are scored and left out.
        """
        prompts = [torch.tensor(row) for row in self.prompt_ids[:count]]
        sampled = [torch.tensor(row).long() for row in self.completion_ids[:count]]
        pad = partial(pad_sequence, batch_first=True, padding_value=-1)
        ids = torch.cat(
            [pad(prompts, padding_side="left"), pad(sampled)], 1
        )  # [B, P+T]
        ids, length = ids.to(self.accelerator.device), max(map(len, sampled))
        if not length:
            return self.policy_rows(torch.zeros(len(ids), 0), torch.zeros(len(ids), 0))
        training = self.model.training
        self.model.eval()
        try:
            log_probs, entropy, _ = self._get_per_token_logps_and_entropies(
                self.model,
                ids.clamp(min=0),
                (ids >= 0).long(),
                length,
                batch_size=self.args.per_device_train_batch_size,
                compute_entropy=True,
            )
        finally:
            self.model.train(training)
        return self.policy_rows(log_probs, entropy)

    def policy_rows(
        self, log_probs: torch.Tensor, entropy: torch.Tensor
    ) -> list[dict[str, torch.Tensor]]:
        """Cut padded scores, [B, T] each, into one field per completion.

        A field is `token_logps`, `token_entropies` and `token_junctions`, each of the
        length of the policy's own tokens, on the CPU.
        """
        fields = []
        rows = zip(log_probs.float().cpu(), entropy.float().cpu(), strict=True)
        for i, (row_log_probs, row_entropy) in enumerate(rows):
            own = (
                self.tool_mask[i]
                if self.tool_mask
                else [1] * len(self.completion_ids[i])
            )
            places = torch.tensor(own).nonzero().squeeze(-1)
            field = {"token_logps": row_log_probs[places]}
            field["token_entropies"] = row_entropy[places]
            field["token_junctions"] = places.diff(prepend=places[:1] - 1) != 1
            fields.append(field)
        return fields

    def _calculate_rewards(self, inputs: Any, *batch: Any) -> torch.Tensor:
        rewards: torch.Tensor = super()._calculate_rewards(inputs, *batch)  # [B, F]
        broken = rewards.isinf()
        self.log_now("rewards/infinite", broken.any(1).sum().item())
        rewards[broken] = torch.nan
        self.completions, self.rewards = batch[1], rewards
        return rewards

    def log_now(self, name: str, value: float) -> None:
        mode = "train" if self.model.training else "eval"
        self._metrics[mode][name].append(value)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        batch, step = (
            super()._generate_and_score_completions(inputs),
            self.state.global_step,
        )
        if step % self.samples_every == 0:
            first = self.accelerator.process_index * len(inputs)
            for i, field in enumerate(self.score(SAMPLES)):
                rewards = self.rewards[first + i].tolist()
                entropy, width = field["token_entropies"], head_width(self.model)
                sample = {"step": step + 1, "prompt": inputs[i]["prompt"]}
                sample["completion"] = self.completions[i]
                sample["token_ids"] = self.completion_ids[i]
                sample["rewards"] = dict(
                    zip(self.reward_func_names, rewards, strict=True)
                )
                sample["phi"] = order_parameter(entropy, width).tolist()
                sample["p"] = field["token_logps"].exp().tolist()
                self.run.append("samples", sample)
        return batch


class CoherentGRPO(SampledGRPO):
    """Mixin: adds R_CARL to the task rewards once the cascade has opened.

    `reward_funcs` ends with the `CoherenceReward`; those before it are the task's.
    """

    cascade: Cascade
    tie_weight: float

    def _calculate_rewards(self, inputs: Any, *batch: Any) -> torch.Tensor:
        step, weights = self.state.global_step, self.reward_weights
        self.cascade.begin(step)
        if self.cascade.stage == "B":
            weights[-1] = self.cascade.weight(step)
            fields = zip(inputs, self.batch_field(), strict=True)
            inputs = [{**row, **field} for row, field in fields]
        rewards = super()._calculate_rewards(inputs, *batch)
        tasks, unscored = rewards[:, :-1], rewards[:, :-1].isnan().all(1)
        total = (tasks * weights[:-1].to(tasks.device)).nansum(1)  # [global B]
        metric = total.masked_fill(unscored, torch.nan).nanmean().item()
        if self.cascade.stage == "B":
            unscored |= rewards[:, -1].isnan()
            rewards[unscored] = torch.nan
        self.task_total = total.masked_fill(unscored, torch.nan)
        self.cascade.observe(metric, step)
        self.log_now("rewards/unscored", unscored.sum().item())
        self.log_now("cascade/metric", metric)
        threshold, opened = self.cascade.threshold, self.cascade.opened_at
        self.log_now("cascade/threshold", torch.nan if threshold is None else threshold)
        self.log_now("cascade/opened_at", torch.nan if opened is None else opened)
        self.log_now("carl/stage", float(self.cascade.stage == "B"))
        self.log_now("carl/weight", self.cascade.weight(step))
        return rewards

    def batch_field(self) -> list[dict[str, torch.Tensor]]:
        """The field of every completion of this batch, on this rank."""
        fields = self.score()
        ends = {*self.eos_token_ids, self._tokenizer.pad_token_id}
        if self.mask_truncated_completions:  # those have no say, thus no field
            for tokens, field in zip(self.completion_ids, fields, strict=True):
                if tokens[-1] not in ends:
                    field["token_entropies"].fill_(torch.nan)
        return fields

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Any:
        batch = super()._generate_and_score_completions(inputs)
        ties = self.scale_rewards == "group"
        ties |= self.multi_objective_aggregation == "normalize_then_sum"
        if ties and self.cascade.stage == "B":
            ramp = (
                self.cascade.weight(self.state.global_step) / self.cascade.carl_weight
            )
            every = torch.ones_like(self.task_total)  # [global B]
            scale = damp_ties(
                every, self.task_total, self.num_generations, ramp * self.tie_weight
            )
            first = self.accelerator.process_index * len(inputs)
            batch["advantages"] *= scale[first : first + len(inputs)]
        return batch


# ---- carl_runtime_min/evaluation.py sha256:96cef62d6c83 ------------------------------
UNDECIDED = "INCONCLUSIVE"


@torch.no_grad()
def sample_answers(
    model: Any,
    tokenizer: Any,
    rows: Any,
    settings: dict[str, Any],
    seed: int,
    stop: StopRequest | None = None,
) -> list[dict[str, Any]]:
    """One completion per row: its `text`, its `token_ids` and `phi`, their mean Φ.

    At temperature 0 the likeliest tokens are taken, and Φ is measured at temperature 1.
    """
    from transformers import GenerationConfig

    torch.manual_seed(seed)
    model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    tau, size, answers = settings["temperature"], settings["batch_size"], []
    own = model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])}
    warm = {"temperature": tau, "top_k": 0, "top_p": 1.0} if tau > 0 else {}
    model.generation_config = GenerationConfig(  # as in training: the policy, no more
        max_new_tokens=settings["max_new_tokens"],
        do_sample=tau > 0,
        eos_token_id=list(ends - {None}),
        pad_token_id=tokenizer.pad_token_id,
        **warm,
    )
    for start in range(0, len(rows), size):
        if stop and stop.asked():
            raise CarlError("asked to stop", remedy="run it again", exit_code=85)
        prompts = rows[start : start + size]["prompt"]
        chat = not isinstance(prompts[0], str)
        if chat:
            prompts = tokenizer.apply_chat_template(
                prompts, add_generation_prompt=True, tokenize=False
            )
        tokenizer.padding_side = "left"
        batch = tokenizer(
            prompts, return_tensors="pt", padding=True, add_special_tokens=not chat
        ).to(model.device)
        width = batch["input_ids"].shape[1]  # P
        out = model.generate(**batch)  # [B, P + T]
        sampled = out[:, width:]
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
    columns = {name: rows[name][:] for name in rows.column_names if name != "prompt"}
    columns["prompts"] = rows["prompt"][:]
    columns["completions"] = [
        (
            item["text"]
            if isinstance(prompt, str)
            else [{"role": "assistant", "content": item["text"]}]
        )
        for item, prompt in zip(answers, columns["prompts"], strict=True)
    ]
    columns["completion_ids"] = [item["token_ids"] for item in answers]
    scores = zip(*(reward(**columns) for reward in rewards), strict=True)
    return [
        sum(w * (x or 0.0) for w, x in zip(weights, row, strict=True)) / sum(weights)
        for row in scores
    ]


def paired_verdict(
    before: list[float], after: list[float], settings: dict[str, Any], seed: int
) -> dict[str, Any]:
    """Did the second model pass more of the same items? PASS, FAIL or INCONCLUSIVE.

    Exact one-sided McNemar tests at level alpha; beside them the bootstrap interval of
    the gain.
    """
    alpha, n = settings["alpha"], len(before)
    pairs = [
        (old >= settings["item_pass"], new >= settings["item_pass"])
        for old, new in zip(before, after, strict=True)
    ]
    gained, lost = pairs.count((False, True)), pairs.count((True, False))
    better, worse = mcnemar(gained, lost)[0], mcnemar(lost, gained)[0]
    return {
        "verdict": "PASS" if better < alpha else "FAIL" if worse < alpha else UNDECIDED,
        "items": n,
        "before": sum(old for old, _ in pairs) / n,
        "after": sum(new for _, new in pairs) / n,
        "gained": gained,
        "lost": lost,
        "p_value": better,
        "gain_interval": paired_bootstrap(before, after, alpha, seed),
    }


# ---- carl_runtime_min/summary.py sha256:c6fa6cfcb503 ---------------------------------
BLOCKS = " ▁▂▃▄▅▆▇█"
CURVES = {
    "mean_token_accuracy": "token accuracy",
    "reward": "reward",
    "phi": "Φ",
    "carl/weight": "weight of CARL",
}


def plot(values: Sequence[float], width: int = 60, height: int = 4) -> list[str]:
    """`values` as `height` lines of at most `width` columns, from lowest to highest."""
    n, columns = len(values), min(width, len(values))
    groups = [values[i * n // columns : (i + 1) * n // columns] for i in range(columns)]
    means = [sum(group) / len(group) for group in groups]
    low, top = min(means), 8 * height - 1
    scale = top / ((max(means) - low) or 1.0)
    levels = [1 + round((mean - low) * scale) for mean in means]
    return [
        "".join(BLOCKS[max(0, min(8, level - base))] for level in levels)
        for base in range(8 * (height - 1), -1, -8)
    ]


def show_run(run: RunDir, report: dict[str, Any]) -> None:
    """The whole run on one screen: curves, gate, cascade and verdict."""
    records, summary = run.records("metrics"), read_json(run.path / "summary.json")
    for phase in dict.fromkeys(record["phase"] for record in records):
        for metric, title in CURVES.items():
            rows = [record for record in records if record["phase"] == phase]
            values = [row[metric] for row in rows if row.get(metric) is not None]
            if values:
                print(f"\n{phase}: {title} from {values[0]:.3f} to {values[-1]:.3f}")
                print(*(f"  │{line}" for line in plot(values)), sep="\n")
                print(f"  └ steps {rows[0]['step']} to {rows[-1]['step']},", end=" ")
                print(f"lowest {min(values):.3f}, highest {max(values):.3f}")
    for name, value in {**(summary or {}), **report}.items():
        if name != "evaluation":
            print(f"{name}: {value}")


# ---- carl_runtime_min/selftest.py sha256:0cfbad57a4c1 --------------------------------
TOLERANCE = 1e-5


def phi_again(vectors: dict[str, Any]) -> dict[str, torch.Tensor]:
    entropy = torch.tensor(vectors["entropy"])  # [B, T]
    return {"phi": order_parameter(entropy, vectors["vocab_size"])}


def reward_again(vectors: dict[str, Any]) -> dict[str, torch.Tensor]:
    log_probs, mask = torch.tensor(vectors["log_probs"]), torch.tensor(vectors["mask"])
    phi = phi_again(vectors)["phi"]  # [B, T]
    return {"reward": carl_reward(phi, log_probs, mask)}


def field_again(vectors: dict[str, Any]) -> dict[str, torch.Tensor]:
    logits = torch.tensor(vectors["logits"])  # [B, T, V]
    entropy, log_probs = token_field(logits, torch.tensor(vectors["token_ids"]))
    return {"entropy": entropy, "log_probs": log_probs}


def self_test(vectors: dict[str, Any], found: dict[str, torch.Tensor]) -> int:
    """Compare with the reference vectors; print how far off, return 0 or 1."""
    errors = {}
    for name, values in found.items():
        expected = torch.tensor(vectors[name], dtype=torch.float64)
        errors[name] = (values.double() - expected).abs().max().item()
        print(f"self-test: {name} differs by at most {errors[name]:.1e}")
    good = all(error <= TOLERANCE for error in errors.values())
    print(f"self-test: {'OK' if good else 'FAILED'}, the bound is {TOLERANCE:.0e}")
    return 0 if good else 1


# ---- carl_runtime_min/dryrun.py sha256:b71e8e2232ae ----------------------------------
def show_plan(config: dict[str, Any]) -> None:
    """Print the settings, without the reference vectors and the spec."""
    plan = {k: v for k, v in config.items() if k not in ("self_test", "spec")}
    print(json.dumps(plan, indent=2, ensure_ascii=False))


def show_row(tokenizer: Any, row: dict[str, Any]) -> None:
    """Print one row as the model sees it, the tokens that it learns in ⟦ ⟧.

    Warns when no end-of-sequence token is among them: such a model never stops.
    """
    prompt, learned = row.get("prompt", []), row.get("completion") or row.get(
        "messages"
    )
    if isinstance(prompt, str):
        start = len(tokenizer(prompt)["input_ids"])
        ids = tokenizer(prompt + (learned or ""))["input_ids"]
        ids += [tokenizer.eos_token_id] * bool(learned)  # TRL appends it to plain text
    else:
        render = partial(tokenizer.apply_chat_template, return_dict=False)
        shown = render(prompt, add_generation_prompt=True) if prompt else []
        start, ids = len(shown), render(prompt + learned) if learned else shown
    seen, new = tokenizer.decode(ids[:start]), tokenizer.decode(ids[start:])
    print(f"\none row, {len(ids)} tokens:\n{seen}⟦{new}⟧" if learned else f"\n{seen}")
    if learned and tokenizer.eos_token_id not in ids[start:]:
        print(f"warning: a turn ends without {tokenizer.eos_token!r}: what is trained")
        print("  may never stop; check the chat template and the end-of-sequence token")


# ---- carl_runtime_min/entry.py sha256:2228751b9a57 -----------------------------------
SETTINGS = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}
LIBRARIES = {"torch", "transformers", "trl", "peft", "accelerate", "datasets"}


def parse_arguments(
    description: str | None, run_dir: str, phases: list[str]
) -> argparse.Namespace:
    """The command line of a script; it also keeps libraries from reporting home."""
    os.environ.update(SETTINGS)
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        description=description, formatter_class=as_written
    )
    parser.add_argument("--run-dir", type=Path, default=Path(run_dir))
    parser.add_argument("--resume", default="auto", help="auto, never, or a checkpoint")
    parser.add_argument("--accept", action="append", default=[], metavar="PHASE")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--self-test", action="store_true")
    parser.add_argument("--phase", choices=phases, help="run it alone, in this process")
    return parser.parse_args()


def identity(config: dict[str, Any]) -> dict[str, Any]:
    """What must be the same when a run continues, the most telling first."""
    blocks = [config[phase] for phase in ("sft", "grpo", "eval") if phase in config]
    sources = [block["data"] for block in blocks]
    files = {one["id"]: Path(one["id"]) for one in sources if Path(one["id"]).is_file()}
    spec = json.dumps(config["spec"], sort_keys=True, separators=(",", ":"))
    return {
        "world_size": max(1, torch.cuda.device_count()),
        "data_revision": [one["revision"] for one in sources],
        "data_sha256": {name: file_sha256(path) for name, path in files.items()},
        "spec_sha256": hashlib.sha256(spec.encode()).hexdigest(),
        "script_sha256": file_sha256(Path(sys.argv[0])),
    }


def lead(args: argparse.Namespace, config: dict[str, Any], phases: list[str]) -> int:
    """Run the phases that are not done yet, each in a process of its own."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        remedy = "start it with plain python: it starts torchrun on all visible GPUs"
        raise UsageError("this script was started by a launcher", remedy=remedy)
    path, record, cuda = args.run_dir.resolve(), identity(config), torch.cuda
    lock = claim(path, record, args.resume)
    gpu = cuda.is_available() and cuda.get_device_name()
    record["hardware"] = gpu or f"{platform.machine()}, {os.cpu_count()} cores"
    record["versions"] = {
        one.name: one.version for one in distributions() if one.name in LIBRARIES
    }
    record["resume"] = "exact between generations on one CPU machine, else approximate"
    write_json(path / "run.json", {**record, "seed": config["seed"]})
    for phase in phases:
        code = (read_json(path / "phases.json") or {}).get(phase)
        if code is None:
            processes = 1 if phase in ("eval", "push") else record["world_size"]
            code = supervise([*sys.argv, "--phase", phase], path, lock, processes)
        if code != 0 and not (code in (1, 3) and phase in args.accept):
            print(f"{phase}: ended with code {code}", file=sys.stderr)
            return code
    return 0


def work(args: argparse.Namespace, phase: Callable[[RunDir, StopRequest], int]) -> int:
    """Run one phase in this process; leave its exit code in the run directory."""
    warnings.simplefilter("ignore", FutureWarning)  # of libraries that are pinned here
    rank, path = int(os.environ.get("RANK", 0)), args.run_dir.resolve()
    run, stop = RunDir(path, args.phase, rank, args.resume), StopRequest()
    code = guarded(lambda: phase(run, stop))
    return guarded(lambda: leave(run, code))


def leave(run: RunDir, code: int) -> int:
    """Record how a phase ended; what is done or has a verdict is not run again."""
    if run.rank == 0:
        phases = read_json(run.path / "phases.json") or {}
        if code in (0, 1, 3):
            write_json(run.path / "phases.json", {**phases, run.phase: code})
        write_json(run.path / "exit.json", {"code": code, "phase": run.phase})
    # torchrun would end rank 0, which may still write, if another rank seemed to fail
    return 0 if run.rank and code in (1, 3, 85) else code


def guarded(action: Callable[[], int]) -> int:
    """Run `action`; turn an error made for people into its message and exit code."""
    try:
        return action()
    except (CarlError, OSError) as error:
        remedy = getattr(
            error, "remedy", "correct the name, grant the access or free the space"
        )
        print(f"error: {error}", f"  fix: {remedy}", sep="\n", file=sys.stderr)
        return getattr(error, "exit_code", 4)
    except Exception:
        traceback.print_exc()
        return 70


# ---- wiring sha256:2881cdb50141 ------------------------------------------------------
def make_tokenizer() -> Any:
    """The tokenizer of the run."""
    return builtin_tokenizer()


def first_policy(tokenizer: Any) -> Any:
    """The model as the run finds it."""
    torch.manual_seed(CONFIG["seed"])
    return builtin_model(tokenizer, CONFIG["seed"])


def trained_policy(tokenizer: Any, result: Path) -> Any:
    """The model as an earlier phase saved it."""
    return load_model({**CONFIG["model"], "id": str(result), "revision": None})


def sft_data(tokenizer: Any) -> Any:
    """The rows of the SFT phase."""
    settings = CONFIG["sft"]
    rows = builtin_rows("sft", CONFIG["seed"], settings["rows"])
    return sft_rows(rows, settings["data"], tokenizer)


def sft(run: RunDir, stop: StopRequest) -> int:
    """Learn by example until the gate fires or the steps are used up."""
    from trl import SFTConfig, SFTTrainer

    settings, tokenizer = CONFIG["sft"], make_tokenizer()
    trainer = SFTTrainer(
        first_policy(tokenizer),
        args=SFTConfig(**training_arguments(run, settings)),
        train_dataset=sft_data(tokenizer),
        processing_class=tokenizer,
    )
    gate = PhaseTransitionGate(**settings["gate"])
    watch = GateWatch(trainer, gate, settings["metric"], settings["stop"])
    callbacks = [watch]
    if not fit(trainer, run, settings, {"gate": gate}, stop, callbacks):
        return 85
    run.summarise(gate_step=gate.step, gate_peak_entropy=gate.peak_entropy)
    if not gate.fired:
        print("gate: not fired; to go on all the same: python train.py --accept sft")
        return 1
    return 0


def grpo_data(tokenizer: Any) -> Any:
    """The rows of the GRPO phase."""
    settings = CONFIG["grpo"]
    rows = builtin_rows("grpo", CONFIG["seed"], settings["rows"])
    return prepared(rows, settings["data"], ["prompt"], tokenizer)


def task_rewards(settings: list[dict[str, Any]]) -> list[Any]:
    """The reward functions of the task, in the order of the spec."""
    makers = {
        "exact_answer": exact_answer_reward,
    }
    return [makers[item["name"]](item) for item in settings]


def grpo(run: RunDir, stop: StopRequest) -> int:
    """Reinforce what the rewards prefer; the cascade decides when CARL joins."""
    from trl import GRPOConfig, GRPOTrainer

    class Trainer(CoherentGRPO, GRPOTrainer): ...

    check_hooks(GRPOTrainer)
    settings, tokenizer = CONFIG["grpo"], make_tokenizer()
    model = trained_policy(tokenizer, run.path / CONFIG["sft"]["result"])
    rewards = task_rewards(settings["rewards"])
    rewards.append(CoherenceReward(head_width(model), settings["carl"]["weights"]))
    trainer = Trainer(
        model,
        rewards,
        args=GRPOConfig(**training_arguments(run, settings)),
        train_dataset=grpo_data(tokenizer),
        processing_class=tokenizer,
    )
    trainer.cascade = cascade = Cascade(**settings["cascade"])
    trainer.tie_weight = settings["carl"]["tie_weight"]
    trainer.record_in(run, settings["samples_every"])
    state = {"cascade": cascade}
    if not fit(trainer, run, settings, state, stop):
        return 85
    run.summarise(cascade_step=cascade.opened_at, stage=cascade.stage)
    if cascade.stage == "A":
        print("cascade: never opened; the run trained on the task rewards alone")
    return 0


def evaluate(run: RunDir, stop: StopRequest) -> int:
    """Answer held-out items before and after GRPO; the scores decide the verdict."""
    settings, tokenizer = CONFIG["eval"], make_tokenizer()
    rows = builtin_rows("eval", CONFIG["seed"], settings["rows"])
    rows = prepared(rows, settings["data"], ["prompt"], tokenizer)
    rewards, seed = task_rewards(CONFIG["grpo"]["rewards"]), CONFIG["seed"]
    scores = []
    for phase in ("sft", "grpo"):
        model = trained_policy(tokenizer, run.path / CONFIG[phase]["result"])
        answers = sample_answers(model, tokenizer, rows, settings, seed, stop)
        scores.append(item_scores(answers, rows, rewards, settings["weights"]))
    report = paired_verdict(*scores, settings, seed)
    show_run(run, report)
    run.summarise(verdict=report["verdict"], evaluation=report)
    return {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3}[report["verdict"]]


def dry_run() -> int:
    """Print the plan and one row of each training phase, as the model sees it."""
    show_plan(CONFIG)
    tokenizer = make_tokenizer()
    show_row(tokenizer, sft_data(tokenizer)[0])
    show_row(tokenizer, grpo_data(tokenizer)[0])
    return 0


def main() -> int:
    torch.set_num_threads(1)  # fastest at this size, and the same on any machine
    phases = {"sft": sft, "grpo": grpo, "eval": evaluate}
    args = parse_arguments(__doc__, CONFIG["run_dir"], list(phases))
    if args.self_test:
        vectors = CONFIG["self_test"]
        found = phi_again(vectors)
        found |= field_again(vectors)
        found |= reward_again(vectors)
        return self_test(vectors, found)
    if args.dry_run:
        return guarded(dry_run)
    if args.phase:
        return work(args, phases[args.phase])
    return guarded(lambda: lead(args, CONFIG, list(phases)))


if __name__ == "__main__":
    sys.exit(main())
