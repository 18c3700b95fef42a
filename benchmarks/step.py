"""What the coherence reward adds to a GRPO step, with a vocabulary of 32,768.

python -m benchmarks.step [--pairs 40] [CASE ...]

Each path of the statistics runs beside the same script without CARL, with a constant
reward of the same weight, step by step in turn; so does that one beside itself, as the
control. Name cases to run only them.
Ratios are of processor time; the bound is the upper 95 % one of the median ratio.
Exits 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measure import conclude

VOCAB, WIDTH, LAYERS, TOKENS = 32768, 128, 4, 32
ALIGNED: dict[str, Any] = {}
OUTLIVING = {"num_iterations": 2}  # TRL scores first, and two steps share the samples
GOALS = {"capture": 1.03, "reuse": 1.01}


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


def timer(turns: Turns, own: int, unit: int) -> Any:
    """A callback that takes turns and notes the processor time of each unit."""
    from transformers import TrainerCallback

    class Timer(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_step_begin(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
            if state.global_step % unit == 0:
                turns.wait(own)
                self.start = time.thread_time()

        def on_step_end(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
            if state.global_step % unit == 0:
                self.seconds.append(time.thread_time() - self.start)
                turns.done(own)

    return Timer()


def trainer(folder: Path, mixin: type | None, units: int, given: dict[str, Any]) -> Any:
    """A GRPO trainer on a random model; without `mixin` TRL's own."""
    from carl_runtime_min.grpo import CoherentPolicy
    from tests import tiny, trainers

    unit = given.get("num_iterations", 1)
    shape = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH}
    model = tiny.model(rows=VOCAB, num_hidden_layers=LAYERS, **shape)
    settings = {
        "max_steps": units * unit,
        "max_completion_length": TOKENS,
        "generation_kwargs": {"min_new_tokens": TOKENS},  # steps of equal length
        "learning_rate": 1e-5,
        **given,
    }
    coherent = mixin is not None and issubclass(mixin, CoherentPolicy)
    tasks = (constant, constant)[: 1 if coherent else 2]
    weights = (1.0, 0.5)[: len(tasks)]
    return trainers.grpo(
        folder, mixin, model=model, tasks=tasks, task_weights=weights, **settings
    )


def paired(
    one: type | None, other: type | None, pairs: int, given: dict[str, Any]
) -> list[float]:
    """Ratios of a unit of the first trainer to the next unit of the second."""
    unit, warm = given.get("num_iterations", 1), 3
    turns, timers, threads = Turns(2), [], []
    for own, mixin in enumerate((one, other)):
        folder = Path(tempfile.mkdtemp())
        made = trainer(folder, mixin, pairs + warm, given)
        timers.append(timer(turns, own, unit))
        made.add_callback(timers[-1])
        threads.append(threading.Thread(target=made.train))
    for thread in threads:
        thread.start()
    turns.gates[0].release()
    for thread in threads:
        thread.join()
    seconds = zip(*(found.seconds[warm:] for found in timers), strict=True)
    return [first / second for first, second in seconds]


def upper_bound(ratios: list[float], seed: int = 0) -> float:
    """The 95 % bound of the median, by resampling."""
    draw = random.Random(seed)
    medians = [
        statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(2000)
    ]
    return sorted(medians)[1900]


def main(pairs: int, only: list[str]) -> int:
    from carl_runtime_min.capture import CapturedScores
    from carl_runtime_min.grpo import CoherentPolicy, ReusedScores, SampledPolicy

    plain = SampledPolicy

    cases: dict[str, Callable[[], list[float]]] = {
        "control": lambda: paired(plain, plain, pairs, ALIGNED),
        "capture": lambda: paired(CapturedScores, plain, pairs, ALIGNED),
        "pass": lambda: paired(CoherentPolicy, plain, pairs, ALIGNED),
        "control, samples outlive a step": lambda: paired(None, None, pairs, OUTLIVING),
        "reuse": lambda: paired(ReusedScores, plain, pairs, OUTLIVING),
    }
    kept = {}
    for name in only or cases:
        measure = cases[name]
        ratios = measure()
        median, bound = statistics.median(ratios), upper_bound(ratios)
        goal = GOALS.get(name)
        shown = f"{name:32} {median:.3f}  at most {bound:.3f} (95 %)"
        print(shown + (f"  goal {goal}" if goal else ""), flush=True)
        if goal:
            kept[f"{name}: at most {goal}"] = bound <= goal
    return conclude(kept)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("cases", nargs="*")
    given = parser.parse_args()
    sys.exit(main(given.pairs, given.cases))
