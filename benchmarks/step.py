"""What the coherence reward adds to a GRPO step, with a vocabulary of 32,768.

python -m benchmarks.step [--pairs 40] [CASE ...]

Each path of the statistics runs beside the same script without CARL, with a constant
reward of the same weight, step by step in turn; so does that one beside itself, as the
control. Name cases to run only them.
Ratios are of processor time.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.measure import Row, ratio, report

TOKENS = 32  # of each completion
SHAPE = {
    "rows": 32768,
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
}
ALIGNED: dict[str, Any] = {}
OUTLIVING = {"num_iterations": 2}  # TRL scores first, and two steps share the samples
GOALS = {"capture": 1.03, "reuse": 1.01}
LASTING = "control, samples outlive a step"
Clock = Callable[[], float]
CONTROLS = {"capture": "control", "pass": "control", "reuse": LASTING}


def constant(completions: list[Any], **_: Any) -> list[float]:
    return [0.25] * len(completions)


class Turns:
    """Lets threads go on one after the other, one unit of `steps` steps at a time."""

    def __init__(self, count: int) -> None:
        self.gates = [threading.Semaphore(0) for _ in range(count)]

    def wait(self, own: int) -> None:
        self.gates[own].acquire()

    def done(self, own: int) -> None:
        self.gates[(own + 1) % len(self.gates)].release()


def timer(turns: Turns, own: int, unit: int, clock: Clock = time.thread_time) -> Any:
    """A callback that takes turns and notes the time of each unit."""
    from transformers import TrainerCallback

    class Timer(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_step_begin(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
            if state.global_step % unit == 0:
                turns.wait(own)
                self.start = clock()

        def on_step_end(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
            if state.global_step % unit == 0:
                self.seconds.append(clock() - self.start)
                turns.done(own)

    return Timer()


def trainer(
    folder: Path,
    mixin: type | None,
    units: int,
    given: dict[str, Any],
    shape: dict[str, Any] = SHAPE,
) -> Any:
    """A GRPO trainer on a random model; without `mixin` TRL's own."""
    from transformers import PrinterCallback

    from carl_runtime_min.grpo import CoherentPolicy
    from tests import tiny, trainers

    unit = given.get("num_iterations", 1)
    settings = {
        "max_steps": units * unit,
        "max_completion_length": TOKENS,
        "generation_kwargs": {"min_new_tokens": TOKENS},  # steps of equal length
        "learning_rate": 1e-5,
        "save_strategy": "no",
        **given,
    }
    coherent = mixin is not None and issubclass(mixin, CoherentPolicy)
    tasks = (constant, constant)[: 1 if coherent else 2]
    weights = (1.0, 0.5)[: len(tasks)]
    made = trainers.grpo(
        folder,
        mixin,
        model=tiny.model(**shape),
        tasks=tasks,
        task_weights=weights,
        **settings,
    )
    made.remove_callback(PrinterCallback)
    return made


def paired(
    one: type | None,
    other: type | None,
    pairs: int,
    given: dict[str, Any],
    shape: dict[str, Any] = SHAPE,
    clock: Clock = time.thread_time,
) -> tuple[list[float], list[float]]:
    """Seconds of each unit of the first trainer, and of the second's next one."""
    unit, warm = given.get("num_iterations", 1), 3
    turns, timers, threads = Turns(2), [], []
    for own, mixin in enumerate((one, other)):
        folder = Path(tempfile.mkdtemp())
        made = trainer(folder, mixin, pairs + warm, given, shape)
        timers.append(timer(turns, own, unit, clock))
        made.add_callback(timers[-1])
        threads.append(threading.Thread(target=made.train))
    for thread in threads:
        thread.start()
    turns.gates[0].release()
    for thread in threads:
        thread.join()
    first, second = (found.seconds[warm:] for found in timers)
    return first, second


def rows(pairs: int = 40, only: Sequence[str] = ()) -> list[Row]:
    from carl_runtime_min.capture import CapturedScores
    from carl_runtime_min.grpo import CoherentPolicy, ReusedScores, SampledPolicy

    plain = SampledPolicy

    cases: dict[str, Callable[[], tuple[list[float], list[float]]]] = {
        "control": lambda: paired(plain, plain, pairs, ALIGNED),
        "capture": lambda: paired(CapturedScores, plain, pairs, ALIGNED),
        "pass": lambda: paired(CoherentPolicy, plain, pairs, ALIGNED),
        LASTING: lambda: paired(None, None, pairs, OUTLIVING),
        "reuse": lambda: paired(ReusedScores, plain, pairs, OUTLIVING),
    }
    found: dict[str, Row] = {}
    for name in only or cases:
        one, other = cases[name]()
        row = ratio(f"GRPO step, {name} / without CARL", one, other, GOALS.get(name))
        print(f"{name:32} {row.measured:.3f}  at most {row.bound:.3f}", flush=True)
        same = found.get(CONTROLS.get(name, ""))
        found[name] = replace(row, control=same.measured if same else None)
    controls = set(CONTROLS.values())
    return [row for name, row in found.items() if only or name not in controls]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("cases", nargs="*")
    given = parser.parse_args()
    sys.exit(report(rows(given.pairs, given.cases)))
