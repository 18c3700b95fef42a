"""What a sandboxed run of a small Python program costs, against one without a sandbox.

python -m benchmarks.sandbox
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from benchmarks.measure import conclude
from carl_runtime_min.environments import (
    PythonEnvironment,
    SQLEnvironment,
    run_query,
)
from carl_runtime_min.sandbox import check_sandbox, run_sandboxed, sandbox_command

ROUNDS = 40
PROGRAM = "print(sum(map(int, input().split())))"
TESTS = [{"input": f"{i} {i}", "output": str(2 * i)} for i in range(3)]


def bare() -> None:
    """The same Python on the same program, in a process without limits."""
    python = next(word for word in sandbox_command(0, 0, 0) if "/bin/python" in word)
    command = [python, "-s", "-S", "-B", "-c", PROGRAM]
    subprocess.run(command, input=b"1 2", capture_output=True, check=True)


def sandboxed() -> None:
    assert run_sandboxed(PROGRAM, "1 2").output == "3\n"


def program() -> None:
    """A program that is right: it runs once for each of its three tests."""
    one = PythonEnvironment()
    one.reset(tests=TESTS)
    one.submit(PROGRAM)
    assert one.get_reward() == 1


def query() -> None:
    """A query that no cache holds: it and the reference run on two databases each."""
    run_query.cache_clear()
    one, table = SQLEnvironment(), "create table t (x); insert into t values (%d);"
    one.reset(databases=[table % 1, table % 2], query="select x from t")
    one.submit("select x + 0 from t")
    assert one.get_reward() == 1


def main() -> int:
    check_sandbox()
    candidates: dict[str, Callable[[], None]] = {
        "python": bare,
        "in the sandbox": sandboxed,
        "a program's reward": program,
        "a query's reward": query,
    }
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(ROUNDS):  # by turns, so that a busy machine slows all alike
        for name, candidate in candidates.items():
            started = time.perf_counter()
            candidate()
            taken[name].append(time.perf_counter() - started)
    median = {name: statistics.median(values) for name, values in taken.items()}
    for name, seconds in median.items():
        print(f"{name:20}{seconds * 1e3:8.1f} ms{seconds / median['python']:8.2f}")
    ratio = median["in the sandbox"] / median["python"]
    return conclude({"at most 5 times as long as bare Python": ratio <= 5})


if __name__ == "__main__":
    sys.exit(main())
