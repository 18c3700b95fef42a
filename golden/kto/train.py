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
# spec-sha256 = "ed770fe6a41880ae88cf5f493490a1d8e508649833b1712334ad363285302cbe"
# ///
"""Kahneman-Tversky optimisation of answers that are good or bad.

Settings are in CONFIG; the code below only reads it. Departures from plain TRL:

- KTO: the log has Phi = 1 - H / ln V, the mean over the tokens of chosen and of
  rejected answers. Nothing else is changed.
- Each phase is a process of its own; what it leaves behind is in the run directory.

    python train.py                          on all visible GPUs, or on the CPU
    CUDA_VISIBLE_DEVICES=0 python train.py   on one GPU of several (no torchrun needed)
    python train.py                          again after a crash or code 85: resume
    python train.py --dry-run                print the plan and a row, train nothing
    python train.py --replay kto:3:5         run recorded steps again, and compare
    python train.py --self-test              check the arithmetic of this machine
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import ctypes
import fcntl
import functools
import hashlib
import inspect
import json
import math
import os
import platform
import random
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
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

# ---- configuration sha256:3eb029115973 -----------------------------------------------
CONFIG = {
    "name": "kto",
    "run_dir": "runs/kto",
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
    "kto": {
        "data": {
            "id": "builtin",
            "revision": None,
            "config": None,
            "split": "train",
            "columns": {
                "prompt": "prompt",
                "completion": "completion",
                "label": "label",
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
            "part": "sft",
            "seed": 42,
            "count": 96,
        },
        "trainer": {
            "max_steps": 6,
            "learning_rate": 0.001,
            "per_device_train_batch_size": 16,
            "gradient_accumulation_steps": 1,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 0,
            "weight_decay": 0.0,
            "max_grad_norm": 1.0,
            "max_length": 128,
            "logging_steps": 1,
            "save_steps": 3,
            "save_total_limit": 2,
            "gradient_checkpointing": False,
            "beta": 0.5,
            "loss_type": "kto",
            "save_strategy": "steps",
            "report_to": "none",
            "disable_tqdm": True,
            "seed": 42,
        },
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
        "name": "kto",
        "method": "kto",
        "kto": {
            "max_steps": 6,
            "learning_rate": 0.001,
            "per_device_train_batch_size": 16,
            "warmup_steps": 0,
            "save_steps": 3,
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


# ---- carl_runtime_min/field.py sha256:b7ce686e5013 -----------------------------------
def order_parameter(entropy: Tensor, vocab_size: int) -> Tensor:
    """Phi = 1 - H / ln V in [0, 1], float64 [...]; NaN where H is not finite.

    Thresholds of the reward sit at 0.5 and 0.7: every caller takes Phi from here.
    """
    if vocab_size < 2:
        raise UsageError(f"Phi needs at least two tokens to choose from: {vocab_size}")
    phi = 1 - entropy.double() / math.log(vocab_size)
    return phi.clamp(0, 1).where(entropy.isfinite(), math.nan)


# ---- carl_runtime_min/builtin.py sha256:29f595b648ac ---------------------------------
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


def builtin_pairs(part: str, seed: int, count: int) -> Any:
    """`count` rows of {prompt, chosen, rejected}, which has one digit wrong."""
    from datasets import Dataset

    draw, rows = random.Random(f"pairs {part} {seed}"), []
    for row in builtin_rows(part, seed, count):
        answer, place = row["answer"], draw.randrange(6)
        digit = (int(answer[place]) + draw.randrange(1, 10)) % 10
        wrong = f"{answer[:place]}{digit}{answer[place + 1 :]}"
        rows.append({"prompt": row["prompt"], "chosen": answer, "rejected": wrong})
    return Dataset.from_list(rows)


def builtin_judged(part: str, seed: int, count: int) -> Any:
    """`count` rows of {prompt, completion, label}: right and wrong answers in turn."""
    from datasets import Dataset

    kinds, rows = ("chosen", "rejected"), []
    for i, row in enumerate(builtin_pairs(part, seed, count)):
        answer, good = row[kinds[i % 2]], i % 2 == 0
        rows.append({"prompt": row["prompt"], "completion": answer, "label": good})
    return Dataset.from_list(rows)


# ---- carl_runtime_min/data.py sha256:1cffc804cc18 ------------------------------------
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


def preference_rows(rows: Any, source: dict[str, Any], tokenizer: Any) -> Any:
    """Rows {prompt, chosen, rejected}, or {prompt, completion, label}.

    Answers that are whole conversations hold their prompt, which is split off.
    """
    columns, name = source["columns"], source["id"]
    own = {ours: columns[ours] for ours in columns if ours != "prompt"}

    def split(row: dict[str, Any], place: int) -> dict[str, Any]:
        talks = {column: row[column] for column in own if column in ANSWERS}
        prompts = [talk[:-1] for talk in talks.values()]
        if not prompts[0] or any(prompt != prompts[0] for prompt in prompts):
            reason = f"{name}, row {place + 1}: answers to different prompts: {prompts}"
            raise UsageError(reason, remedy="let answers continue one conversation")
        return {"prompt": prompts[0]} | {c: talk[-1:] for c, talk in talks.items()}

    first = next(iter(rows), {}).get(next(iter(own.values())))
    if isinstance(first, list) and is_text(first) and first[0]["role"] != "assistant":
        rows = prepared(rows, {**source, "columns": own}, tokenizer)
        rows = rows.map(split, with_indices=True)
        source = {**source, "columns": {c: c for c in columns}, "part": [None, None]}
    rows = prepared(rows, source, tokenizer)
    for place, label in enumerate(rows["label"] if "label" in own else ()):
        if not isinstance(label, bool):
            remedy = f"make {columns['label']!r} true (good) or false (bad)"
            reason = f"{name}, row {place + 1}: a label is {label!r}"
            raise UsageError(reason, remedy=remedy)
    return rows.select_columns(list(columns))


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


# ---- carl_runtime_min/guards.py sha256:a372f76d2d2e ----------------------------------
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


# ---- carl_runtime_min/hooks.py sha256:31138c67e94d -----------------------------------
def check_hooks(trainer_class: type, hooks: dict[str, str]) -> None:
    """Stop if a private method does not take, after self, the arguments in `hooks`."""
    for name, expected in hooks.items():
        method = getattr(trainer_class, name, lambda: None)
        found = ", ".join(inspect.signature(method).parameters)
        if not f"{found}, ".removeprefix("self, ").startswith(f"{expected}, "):
            remedy = "install the TRL version pinned at the top of this script"
            raise CarlError(f"TRL's {name} takes ({found})", remedy=remedy, exit_code=4)


# ---- carl_runtime_min/preference.py sha256:3a807b640356 ------------------------------
LOSS_HOOKS = {**CHECKPOINT_HOOKS, "_compute_loss": "model, inputs, return_outputs"}


class PreferencePhi(ExactResume):
    """Mixin of DPO and KTO: logs the mean Phi of chosen and of rejected tokens."""

    def _compute_loss(self, model: Any, inputs: Any, return_outputs: bool) -> Any:
        passes = []

        def policy(**batch: Any) -> Any:  # the reference is called by another name
            passes.append(model(**batch))
            return passes[-1]

        loss = super()._compute_loss(policy, inputs, return_outputs)
        mask = inputs["completion_mask"][:, 1:].bool()  # [B, T]
        scored = [one.entropy for one in passes if one.get("entropy") is not None]
        rows = torch.arange(len(mask), device=mask.device)
        chosen = inputs["label"].bool() if "label" in inputs else rows < len(mask) // 2
        self.log_phi(scored[-1][:, -mask.shape[1] :].detach(), mask, chosen)
        return loss

    def log_phi(self, entropy: Tensor, mask: Tensor, chosen: Tensor) -> None:
        """Log the mean Phi of the tokens in `mask`; [B, T], [B, T], [B]."""
        phi = order_parameter(entropy, head_width(self.model))  # [B, T]
        for name, rows in (("chosen", chosen), ("rejected", ~chosen)):
            own = mask & rows[:, None]  # [B, T]
            sums = torch.stack([phi[own].sum(), own.sum()])
            total, count = self.accelerator.reduce(sums, "sum").tolist()
            if count:
                self.keep(f"phi/{name}", total / count)

    def keep(self, name: str, value: float) -> None:
        mode = "train" if self.model.training else "eval"
        self._metrics[mode][name].append(value)


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


# ---- wiring sha256:a5eba4432955 ------------------------------------------------------
def kto_data(tokenizer: Any, settings: dict[str, Any]) -> Any:
    rows = builtin_judged(**settings["rows"])
    return preference_rows(rows, settings["data"], tokenizer)


def kto(run: Run) -> int:
    """Make good answers likelier, and bad ones less likely."""
    from trl import KTOConfig, KTOTrainer

    class Trainer(PreferencePhi, KTOTrainer): ...

    check_hooks(KTOTrainer, LOSS_HOOKS)
    settings, tokenizer = CONFIG["kto"], builtin_tokenizer()
    rows = kto_data(tokenizer, settings)
    torch.manual_seed(CONFIG["seed"])
    model = builtin_model(tokenizer, CONFIG["seed"])
    trainer = Trainer(
        model,
        ref_model=builtin_model(tokenizer, CONFIG["seed"]),
        args=KTOConfig(**training_arguments(run, settings)),
        train_dataset=rows,
        processing_class=tokenizer,
    )
    parts = {}
    return 0 if fit(trainer, run, settings, parts) else 85


def dry_run() -> int:
    """Print the plan and one row of each training phase, as the model sees it."""
    plan = {name: CONFIG[name] for name in CONFIG if name not in ("self_test", "spec")}
    print(json.dumps(plan, indent=2, ensure_ascii=False))
    tokenizer = builtin_tokenizer()
    show_row(tokenizer, kto_data(tokenizer, CONFIG["kto"])[0])
    return 0


def self_test() -> int:
    """Recompute reference vectors on this machine."""
    vectors = {name: torch.tensor(x) for name, x in CONFIG["self_test"].items()}
    phi = order_parameter(vectors["entropy"], int(vectors["vocab_size"]))  # [B, T]
    found = {"phi": phi}
    return compare(found, vectors)


def main() -> int:
    torch.set_num_threads(1)  # fastest at this size, and the same on any machine
    phases = {"kto": kto}
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
