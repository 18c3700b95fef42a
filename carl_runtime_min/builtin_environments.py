"""Tasks for the environments that need no data: small programs and queries."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any


def python_task(draw: random.Random) -> dict[str, Any]:
    """A row of the built-in task: a program that computes one number from several."""
    k = draw.randrange(2, 10)
    kinds: dict[str, Callable[[list[int]], int]] = {
        f"the sum of those that {k} divides": lambda n: sum(x for x in n if x % k == 0),
        f"how many of them exceed {10 * k}": lambda n: sum(x > 10 * k for x in n),
        f"{k} times the largest less the smallest": lambda n: k * max(n) - min(n),
    }
    what, tests = draw.choice(list(kinds)), dict[str, str]()
    while len(set(tests.values())) < 3:
        numbers = [draw.randrange(100) for _ in range(draw.randrange(3, 9))]
        tests["\n".join(map(str, numbers))] = str(kinds[what](numbers))
    prompt = "Write a Python program that reads integers from standard input, one a "
    prompt += f"line, and prints {what}. Try it with the tool run, then hand it in."
    found = [{"input": given, "output": output} for given, output in tests.items()]
    return {"environment": "python", "prompt": prompt, "tests": found}


def sql_task(draw: random.Random) -> dict[str, Any]:
    """A row of the built-in task: a query on goods, whose prices all differ."""
    kinds, k = ("book", "tool", "toy"), draw.randrange(1, 6)
    table, databases = "CREATE TABLE goods (name TEXT, kind TEXT, price INTEGER);", []
    for place, count in enumerate((6, 9)):
        prices = [10 * x + place for x in draw.sample(range(1, 100), count)]
        goods = [(f"item {x}", kinds[i % 3], x) for i, x in enumerate(prices)]
        values = ", ".join(map(str, goods))
        databases.append(f"{table} INSERT INTO goods VALUES {values};")
    kind, read = draw.choice(kinds), "SELECT name, price FROM goods"
    asked = {
        f"name and price of the {k} dearest goods, the dearest first": (
            f"{read} ORDER BY price DESC LIMIT {k}"
        ),
        f"name and price of the cheapest {kind}": (
            f"{read} WHERE kind = '{kind}' ORDER BY price LIMIT 1"
        ),
        "each kind with the number of goods of that kind": (
            "SELECT kind, count(*) FROM goods GROUP BY kind"
        ),
    }
    what = draw.choice(list(asked))
    prompt = f"An SQLite database has one table, goods (name, kind, price). Find {what}"
    prompt += " with one query. Try it with the tool run, then hand it in."
    row = {"prompt": prompt, "databases": databases, "query": asked[what]}
    return {"environment": "sql", **row}


def environment_rows(
    makers: list[Callable[[random.Random], dict[str, Any]]],
    part: str,
    seed: int,
    count: int,
) -> Any:
    """`count` rows of the built-in tasks, in turn."""
    from datasets import Dataset

    draw = random.Random(f"environments {part} {seed}")
    empty: dict[str, Any] = {"tests": [], "databases": [], "query": ""}
    rows = [{**empty, **makers[i % len(makers)](draw)} for i in range(count)]
    return Dataset.from_list(rows)
