"""Environments as TRL takes them: a model calls their tools, then hands in an answer.

What a model writes runs in the sandbox. It is judged outside, by what it prints or
finds for several inputs; the right answers never enter the sandbox, and they differ, so
that no constant is right.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from inspect import getmembers, isfunction
from itertools import chain
from json import JSONDecoder
from typing import Any

from carl_runtime_min.errors import UsageError
from carl_runtime_min.sandbox import Ran, run_sandboxed

SHOWN_OUTPUT = 2000  # characters that a tool shows
QUERY_PROGRAM = """
import json, sqlite3, sys
sys.tracebacklimit, given = 0, json.load(sys.stdin)
for script in given["databases"]:
    database = sqlite3.connect(":memory:")
    database.executescript(script)
    rows = database.execute(given["query"]).fetchall()
    print(json.dumps(rows, default=repr))
"""


def tool_output(ran: Ran) -> str:
    """What a model sees of a program that ran, or of why it did not."""
    ends = {0: "", None: "\n(out of time)"}
    end = ends.get(ran.code, f"\n(exit code {ran.code})")
    return ran.output[:SHOWN_OUTPUT] + ran.errors[-SHOWN_OUTPUT:] + end


class PythonEnvironment:
    """Programs: `tests` are {input, output}; the reward is 1 if all pass, else 0."""

    def reset(self, tests: Any = None, **row: Any) -> None:
        self._tests: list[dict[str, str]] = tests or []
        self._verdict: Future[float] | None = None
        if len({test["output"].strip() for test in self._tests}) < 2:
            remedy = "give each row `tests` of {input, output} with different outputs"
            raise UsageError("the tests of a row let a constant pass", remedy=remedy)

    def run(self, code: str, stdin: str = "") -> str:
        """Run a Python program and see what it prints.

        Args:
            code: The whole program.
            stdin: What it reads from standard input.
        """
        return tool_output(run_sandboxed(code, stdin))

    def submit(self, code: str) -> str:
        """Hand in the finished program; only the first one counts.

        Args:
            code: The whole program, which reads standard input and prints the answer.
        """
        self._verdict = self._verdict or judge_later(self._judge, code)
        return "handed in"

    def get_reward(self) -> float:
        return self._verdict.result() if self._verdict else 0.0

    def _judge(self, code: str) -> float:
        for test in self._tests:
            ran = run_sandboxed(code, test["input"])
            if ran.code != 0 or ran.output.strip() != test["output"].strip():
                return 0.0
        return 1.0


def judge_later(judge: Callable[[str], float], answer: str) -> Future[float]:
    """Judge an answer beside the training; an error is raised for whoever asks."""
    return ThreadPoolExecutor(1).submit(judge, answer)


@lru_cache(maxsize=64)
def run_query(databases: tuple[str, ...], query: str) -> Ran:
    """Run a query on fresh databases, each of them made by a script of SQL."""
    given = {"databases": databases, "query": query}
    return run_sandboxed(QUERY_PROGRAM, json.dumps(given))


def is_ordered(query: str) -> bool:
    """Whether the rows of a query have an order: ORDER BY outside of parentheses."""
    outer, before = query, ""
    while outer != before:
        outer, before = re.sub(r"\([^()]*\)", "", outer), outer
    return re.search(r"\border\s+by\b", outer, re.IGNORECASE) is not None


class SQLEnvironment:
    """Queries: 1 for the rows that `query` finds in all of the `databases`, else 0.

    A database is a script of SQL. The model sees the first one.
    """

    def reset(self, databases: Any = None, query: str = "", **row: Any) -> None:
        self._databases, self._wanted = tuple(databases or ()), query
        self._verdict: Future[float] | None = None
        if len(set(self._databases)) < 2 or not query:
            remedy = "give each row a `query` and two `databases` that it tells apart"
            raise UsageError("one database lets a constant pass", remedy=remedy)

    def run(self, sql: str) -> str:
        """Run a query on the SQLite database and see what it finds.

        Args:
            sql: One statement. Each time, the database is as it was.
        """
        return tool_output(run_query(self._databases[:1], sql))

    def submit(self, sql: str) -> str:
        """Hand in the finished query; only the first one counts.

        Args:
            sql: One statement, which finds what was asked for.
        """
        self._verdict = self._verdict or judge_later(self._judge, sql)
        return "handed in"

    def get_reward(self) -> float:
        return self._verdict.result() if self._verdict else 0.0

    def _judge(self, sql: str) -> float:
        wanted, found = self._rows(self._wanted), self._rows(sql)
        if all(rows == wanted[0] for rows in wanted):
            message = f"fails, or finds the same in all databases: {self._wanted}"
            remedy = "correct the `query` of the row, or its `databases`"
            raise UsageError(message, remedy=remedy)
        return float(found == wanted)

    def _rows(self, sql: str) -> list[Any]:
        """What a query finds in each database, decimals to six places."""
        ran, read = run_query(self._databases, sql), JSONDecoder(parse_float=six_places)
        lines = ran.output.splitlines() if ran.code == 0 else []
        tables = [list(map(tuple, read.decode(line))) for line in lines]
        return tables if is_ordered(self._wanted) else list(map(Counter, tables))


def six_places(text: str) -> float:
    return round(float(text), 6)


def check_rows(rows: Any, kinds: dict[str, Any]) -> None:
    """UsageError: a row names no environment, or is of no use in it."""
    for row in rows:
        name = row["environment"] if len(kinds) > 1 else next(iter(kinds))
        if name not in kinds:
            remedy = f"write one of {', '.join(kinds)} in its column `environment`"
            raise UsageError(f"a row is of environment {name!r}", remedy=remedy)
        if name in ("python", "sql"):
            kinds[name]().reset(**row)


def tool_arguments(tokenizer: Any, tools: list[Any], kinds: dict[str, Any]) -> Any:
    """What the trainer takes; UsageError: no template or no description for tools."""
    from transformers.utils import get_json_schema
    from trl.chat_template_utils import add_response_schema, supports_tool_calling

    remedy = "name a chat model that calls tools, such as Qwen/Qwen3-0.6B"
    if not supports_tool_calling(tokenizer):
        raise UsageError("the chat template supports no tool calls", remedy=remedy)
    try:
        if getattr(tokenizer, "response_template", None) is None:
            add_response_schema(tokenizer)
        remedy = "give each argument a type, and describe all under `Args:`"
        for tool in chain(tools, *map(environment_tools, kinds.values())):
            get_json_schema(tool)
    except Exception as error:  # no two of these have one kind
        raise UsageError(f"no calls of tools: {error}", remedy=remedy) from error
    factory = kinds if len(kinds) > 1 else next(iter(kinds.values()), None)
    return {"tools": tools, "environment_factory": factory}


def environment_tools(kind: Any) -> list[Any]:
    """The tools of an environment, found as TRL finds them."""
    others, one = ("reset", "get_reward"), kind()
    names = [name for name, _ in getmembers(kind, isfunction) if name not in others]
    return [getattr(one, name) for name in names if not name.startswith("_")]


def weigh_environments(trainer: Any, kinds: dict[str, Any], weights: Any) -> None:
    """Weigh what TRL appends for environments with rewards; R_CARL stays the last.

    UsageError: nothing rewards the task.
    """
    given, names = len(trainer.args.reward_weights), trainer.reward_func_names
    named = {kinds[name].__name__: weight for name, weight in weights.items()}
    own = given - 1 if names[:given][-1:] == ["carl"] else None
    tasks = [i for i in range(len(names)) if i != own]
    if not tasks:
        remedy = "define get_reward() in the environment, or name a reward"
        raise UsageError("nothing rewards the task", remedy=remedy)
    for place in range(given, len(names)):
        trainer.reward_weights[place] = named[names[place]]
    order = tasks if own is None else [*tasks, own]
    for held in (trainer.reward_funcs, names, trainer.reward_processing_classes):
        held[:] = [held[i] for i in order]
    trainer.reward_weights = trainer.reward_weights[order]
