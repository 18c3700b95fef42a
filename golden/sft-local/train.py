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
# spec-sha256 = "d29760b6dfbfc8ee7340811ddb2303c1135f1d91e797df8b754b1694b091cc03"
# ///
"""Supervised fine-tuning, watched by a phase gate.

Settings are in CONFIG; the code below only reads it. Departures from plain TRL:

- SFT: after every step the gate sees the token accuracy, and fires when it is high.
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
import glob
import hashlib
import json
import math
import os
import platform
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
from typing import Any

import torch
from torch import Tensor

# ---- configuration sha256:0b0b1978822f -----------------------------------------------
CONFIG = {
    "name": "sft-local",
    "run_dir": "runs/sft-local",
    "seed": 42,
    "model": {
        "id": "./small",
        "revision": None,
        "dtype": "auto",
        "adapter": False,
        "attention": None,
        "tokenizer": "./small",
        "tokenizer_revision": None,
        "loading": {},
    },
    "sft": {
        "data": {
            "id": "rows.jsonl",
            "revision": None,
            "config": None,
            "split": "train",
            "columns": {},
            "limit": None,
            "system_prompt": None,
            "skip_last": 0,
            "take_last": 0,
        },
        "bf16": None,
        "keep": 2,
        "result": "model",
        "trainer": {
            "max_steps": 100,
            "learning_rate": 2e-05,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 4,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 0.03,
            "weight_decay": 0.0,
            "max_grad_norm": 1.0,
            "max_length": 1024,
            "logging_steps": 1,
            "save_steps": 50,
            "gradient_checkpointing": True,
            "save_strategy": "steps",
            "report_to": "none",
            "disable_tqdm": True,
            "save_total_limit": None,
            "seed": 42,
        },
        "gate": {
            "threshold": 0.99,
            "window": 5,
            "min_above": 3,
        },
        "metric": "mean_token_accuracy",
        "stop": False,
    },
    "self_test": {
        "vocab_size": 5,
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
    },
    "spec": {
        "name": "sft-local",
        "method": "sft",
        "model": {
            "id": "./small",
            "frozen": {
                "config_sha256": "818093557edf2eb93df2b4a68f8ae7481e069105f80647e75e2dfd11ef30a252",
                "model_type": "qwen3",
                "architecture": "Qwen3ForCausalLM",
                "auto_class": "causal-lm",
                "thinking": "none",
                "vocab_size": 151936,
                "context_length": 40960,
            },
        },
        "data": {
            "id": "rows.jsonl",
        },
        "lora": False,
        "sft": {
            "max_steps": 100,
            "save_steps": 50,
        },
    },
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


# ---- carl_runtime_min/field.py sha256:5e4ac55760ec -----------------------------------
def order_parameter(entropy: Tensor, vocab_size: int) -> Tensor:
    """Phi = 1 - H / ln V in [0, 1], float64, [...]; NaN where H is not finite.

    The thresholds of the reward sit at 0.5 and 0.7, so every caller takes Phi from
    here, in this one precision. `vocab_size` is the width of the output head.
    """
    if vocab_size < 2:
        raise UsageError(f"Phi needs at least two tokens to choose from: {vocab_size}")
    phi = 1 - entropy.double() / math.log(vocab_size)
    return phi.clamp(0, 1).where(entropy.isfinite(), math.nan)


# ---- carl_runtime_min/gate.py sha256:15b061841d41 ------------------------------------
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


# ---- carl_runtime_min/data.py sha256:92f67ae30530 ------------------------------------
def file_rows(source: dict[str, Any]) -> Any:
    """A local JSONL, JSON or Parquet file, loaded by what its name ends in."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    kind = "parquet" if source["id"].endswith(".parquet") else "json"
    if not Path(source["id"]).is_file():
        remedy = f"the path is relative to where the script runs, here {Path.cwd()}"
        raise UsageError(f"there is no file {source['id']}", remedy=remedy)
    try:
        return load_dataset(kind, data_files=glob.escape(source["id"]), split="train")
    except (DatasetGenerationError, ValueError, StopIteration) as error:
        remedy = "it needs rows with the same columns; in JSONL each line is an object"
        reason = f"{source['id']}: {error.__cause__ or error or 'no rows'}"
        raise UsageError(reason, remedy=remedy) from error


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


# ---- carl_runtime_min/models.py sha256:85db0220992f ----------------------------------
def load_tokenizer(source: dict[str, Any]) -> Any:
    """The tokenizer of the spec's model, with a padding token."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        source["tokenizer"],
        revision=source["tokenizer_revision"],
        **source["loading"],
    )
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


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


# ---- carl_runtime_min/selftest.py sha256:c935062d8f6d --------------------------------
TOLERANCE = 1e-5


def phi_again(vectors: dict[str, Any]) -> dict[str, torch.Tensor]:
    entropy = torch.tensor(vectors["entropy"])  # [B, T]
    return {"phi": order_parameter(entropy, vectors["vocab_size"])}


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


# ---- wiring sha256:3b0b7045ad4b ------------------------------------------------------
def make_tokenizer() -> Any:
    """The tokenizer of the run."""
    return load_tokenizer(CONFIG["model"])


def first_policy(tokenizer: Any) -> Any:
    """The model as the run finds it."""
    torch.manual_seed(CONFIG["seed"])
    return load_model(CONFIG["model"])


def sft_data(tokenizer: Any) -> Any:
    """The rows of the SFT phase."""
    settings = CONFIG["sft"]
    rows = file_rows(settings["data"])
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
    return 0


def dry_run() -> int:
    """Print the plan and one row of each training phase, as the model sees it."""
    show_plan(CONFIG)
    tokenizer = make_tokenizer()
    show_row(tokenizer, sft_data(tokenizer)[0])
    return 0


def main() -> int:
    phases = {"sft": sft}
    args = parse_arguments(__doc__, CONFIG["run_dir"], list(phases))
    if args.self_test:
        vectors = CONFIG["self_test"]
        found = phi_again(vectors)
        return self_test(vectors, found)
    if args.dry_run:
        return guarded(dry_run)
    if args.phase:
        return work(args, phases[args.phase])
    return guarded(lambda: lead(args, CONFIG, list(phases)))


if __name__ == "__main__":
    sys.exit(main())
