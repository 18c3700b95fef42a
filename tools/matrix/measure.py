"""All runs of one case: a model directory, then each side and method on it."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tools.matrix.cache import Outcome
from tools.matrix.instance import Case, save
from tools.matrix.isolated import isolated
from tools.matrix.sides import METHODS, ours, plain, write_rows

SIDES = {"ours": ours, "plain": plain}
RUNS = tuple(f"{name}/{method}" for method in METHODS for name in SIDES)


def prepare() -> None:
    """Import once what every run needs: a fork has it then.

    There is no network, one thread, and no hub.
    """
    os.environ.update(
        HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", PYTHONWARNINGS="ignore"
    )
    import peft
    import torch
    from datasets.packaged_modules.json import json
    from trl import GRPOTrainer, SFTTrainer

    import carl_bundle.bundler.render

    torch.set_num_threads(1)
    _ = peft, json, GRPOTrainer, SFTTrainer, carl_bundle


def measure(
    case: Case, wanted: list[str], seconds: float, log: Path | None = None
) -> dict[str, Outcome]:
    """The outcomes of the instance and of the runs `wanted`, in `seconds` altogether.

    Where there is no instance nothing else is tried.
    """
    end = time.monotonic() + seconds
    found: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory(prefix="matrix-") as scratch:
        folder = Path(scratch)
        model, rows = folder / "model", write_rows(folder)
        found["instance"] = timed(partial(instance, case, model), folder / "log", end)
        for run in wanted if found["instance"].word == "runs" else ():
            name, method = run.split("/")
            action = partial(SIDES[name], model, rows, folder / run, method)
            found[run] = timed(action, folder / "log", end)
            if log and found[run].word != "runs":
                with log.open("a") as file:
                    file.write(
                        f"## {case.name} {run}\n{(folder / 'log').read_text()}\n"
                    )
    return found


def instance(case: Case, folder: Path) -> int:
    save(case, folder)
    return 0


def timed(action: Callable[[], int], log: Path, end: float) -> Outcome:
    """The outcome of an action; weights that the file lacks are a failure too."""
    start = time.monotonic()
    word, reason = isolated(action, log, max(1.0, end - start))
    if word == "runs" and "| MISSING" in log.read_text(errors="replace"):
        word, reason = "fails", "weights of the checkpoint were not found"
    reason = reason.replace(f"{log.parent}/", "")
    return Outcome(word, reason, round(time.monotonic() - start, 1))
