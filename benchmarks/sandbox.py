"""What a sandboxed run of a small Python program costs, against one without a sandbox.

python -m benchmarks.sandbox
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from benchmarks.measure import Row, by_turns, ratio, report
from carl_runtime_min.environments import (
    PythonEnvironment,
    SQLEnvironment,
    run_query,
)
from carl_runtime_min.sandbox import check_sandbox, run_sandboxed, sandbox_command

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


def rows() -> list[Row]:
    check_sandbox()
    taken = by_turns(
        {
            "python": bare,
            "python again": bare,
            "in the sandbox": sandboxed,
            "a program's reward": program,
            "a query's reward": query,
        },
        clock=time.perf_counter,  # it waits for other processes
    )
    python, control = taken.pop("python"), taken.pop("python again")
    sandbox = taken.pop("in the sandbox")
    name = f"a program in the sandbox / bare Python ({typical(python):.0f} ms)"
    return [
        ratio(name, sandbox, python, 5, control=control, form=".2f"),
        *(Row(f"{name}, ms", typical(x), form=".0f") for name, x in taken.items()),
    ]


def typical(seconds: list[float]) -> float:
    """The median, in milliseconds."""
    return statistics.median(seconds) * 1e3


if __name__ == "__main__":
    sys.exit(report(rows()))
