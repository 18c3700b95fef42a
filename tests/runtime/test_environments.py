"""What environments reward, and what they do not."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from carl_runtime_min import environments
from carl_runtime_min.builtin_environments import (
    environment_rows,
    python_task,
    sql_task,
)
from carl_runtime_min.environments import (
    PythonEnvironment,
    SQLEnvironment,
    check_rows,
    is_ordered,
    tool_arguments,
)
from carl_runtime_min.errors import UsageError
from tests import tiny
from tests.tool_calls import QWEN3

TESTS = [{"input": "1 2", "output": "3\n"}, {"input": "2 2", "output": "4"}]
SUM = "print(sum(map(int, input().split())))"
SCHEMA = "create table t (a text, b real);"
FIRST = f"{SCHEMA} insert into t values ('x', 1.5), ('y', 2), ('y', 0.1), ('z', null);"
OTHER = f"{SCHEMA} insert into t values ('v', 1), ('w', 5), ('u', 1.25);"


def python_reward(*programs: str, tests: Any = TESTS) -> float:
    one = PythonEnvironment()
    assert one.reset(prompt="x", tests=tests) is None
    for program in programs:
        assert one.submit(program) == "handed in"
    return one.get_reward()


@pytest.mark.parametrize(
    ("program", "reward"),
    [
        (SUM, 1),
        (f"{SUM}\nprint()", 1),
        ("pass", 0),
        ("", 0),
        ("print(3)", 0),
        ("print(3); print(4)", 0),
        ("for i in range(1000): print(i)", 0),
        (f"{SUM}\nraise SystemExit(1)", 0),
        (f"{SUM}\n1 / 0", 0),
        (f"{SUM}\nwhile True: pass", 0),
        ("import sys; print(sum(map(int, input().split())), file=sys.stderr)", 0),
        ("raise SystemExit(0)", 0),
        ("import os; os._exit(0)", 0),
        ("print(float('nan'))", 0),
        ("class A:\n def __eq__(s, o): return True\nprint(A())", 0),
        ("not python", 0),
    ],
)
def test_a_program_is_right_if_it_prints_every_answer(
    program: str, reward: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("carl_runtime_min.sandbox.SANDBOX_SECONDS", 1)
    assert python_reward(program) == reward


def test_the_first_answer_counts() -> None:
    assert python_reward("pass", SUM) == 0
    assert python_reward(SUM, "pass") == 1
    assert python_reward() == 0


def test_an_environment_forgets_the_row_before() -> None:
    one = PythonEnvironment()
    for _ in range(2):
        one.reset(tests=TESTS)
        assert one.get_reward() == 0
        one.submit(SUM)
        assert one.get_reward() == 1


def test_a_program_shows_what_it_prints_and_how_it_fails() -> None:
    one = PythonEnvironment()
    one.reset(tests=TESTS)
    assert one.run("print(input())", "abc") == "abc\n"
    assert one.run("print(1 / 0)").endswith("division by zero\n\n(exit code 1)")
    assert len(one.run("print('x' * 10_000)")) < 3000
    assert "3" not in one.run("import os; print(os.listdir('/tmp'), open('/main.py'))")


def test_a_program_out_of_time_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carl_runtime_min.sandbox.SANDBOX_SECONDS", 1)
    one = PythonEnvironment()
    assert one.run("print(1, flush=True)\nwhile True: pass") == "1\n\n(out of time)"


def sql_reward(wanted: str, *queries: str) -> float:
    one = SQLEnvironment()
    assert one.reset(prompt="x", databases=[FIRST, OTHER], query=wanted) is None
    for query in queries:
        assert one.submit(query) == "handed in"
    return one.get_reward()


@pytest.mark.parametrize(
    ("wanted", "query", "reward"),
    [
        ("select a, b from t", "select * from t", 1),
        ("select a, b from t", "select a, b from t order by b", 1),
        ("select a, b from t", "select b, a from t", 0),
        ("select a from t", "select distinct a from t", 0),
        ("select a from t order by a", "select a from t order by a desc", 0),
        ("select a from t order by a", "select a as c from t order by 1", 1),
        ("select count(*) from t", "select 4", 0),
        ("select count(*) from t", "select count(b) + count(*) - count(b) from t", 1),
        ("select sum(b) from t", "select total(b) from t", 1),
        ("select sum(b) from t", "select 3.6", 0),
        ("select avg(b) from t", "select avg(b) + 1e-9 from t", 1),
        ("select count(*) from t", "select count(*) + 0.0 from t", 1),
        ("select a from t", "select a from", 0),
        ("select a from t", "delete from t returning a", 1),
        ("select a from t", "delete from t", 0),
        ("select a from t", "select a from t; select 1", 0),
        ("select a from t", "attach '/tmp/x' as x", 0),
        ("select a from t", "select load_extension('x')", 0),
        ("select a from t", "select readfile('/etc/passwd')", 0),
        ("select a from t", "", 0),
    ],
)
def test_a_query_is_right_if_it_finds_the_rows_of_the_reference(
    wanted: str, query: str, reward: float
) -> None:
    assert sql_reward(wanted, query) == reward


def test_a_query_without_end_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carl_runtime_min.sandbox.SANDBOX_SECONDS", 1)
    endless = "with recursive c(x) as (select 1 union all select x from c) "
    assert sql_reward("select a from t", f"{endless} select count(*) from c") == 0
    assert sql_reward("select a from t", f"{endless} select x from c") == 0


def test_the_first_query_counts() -> None:
    assert sql_reward("select a from t", "select 1", "select a from t") == 0
    assert sql_reward("select a from t") == 0


def test_a_query_shows_what_it_finds_in_a_fresh_database() -> None:
    one = SQLEnvironment()
    one.reset(databases=[FIRST, OTHER], query="select a from t")
    assert one.run("select count(*), sum(b) from t") == "[[4, 3.6]]\n"
    assert one.run("delete from t") == "[]\n"
    assert one.run("select count(*) from t") == "[[4]]\n"
    assert "no such table: u" in one.run("select * from u")
    assert "Traceback" not in one.run("select")
    assert one.run("select x'00ff'") == "[[\"b'\\\\x00\\\\xff'\"]]\n"


@pytest.mark.parametrize("query", ["select 5", "select b from u", "select a from t; 1"])
def test_a_reference_that_tells_nothing_apart_is_refused(query: str) -> None:
    with pytest.raises(UsageError, match="finds the same in all databases"):
        sql_reward(query, "select 5")


@pytest.mark.parametrize(
    ("query", "ordered"),
    [
        ("select a from t", False),
        ("select a from t ORDER\n BY a", True),
        ("select a from t order by lower(a) desc limit (1 + (2))", True),
        ("select rank() over (order by a) from t", False),
        ("select a from (select a from t order by (a) limit 3)", False),
        ("select border by_ from t", False),
    ],
)
def test_rows_have_an_order_where_the_reference_gives_one(
    query: str, ordered: bool
) -> None:
    assert is_ordered(query) is ordered


def test_built_in_tasks_can_be_solved_and_by_no_constant() -> None:
    rows = environment_rows([python_task, sql_task], "grpo", 7, 40)
    kinds = {"python": PythonEnvironment, "sql": SQLEnvironment}
    check_rows(rows, kinds)
    for row in list(rows)[:8]:
        one = kinds[row["environment"]]()
        one.reset(**row)
        if row["environment"] == "python":
            one.submit(f"print({row['tests'][0]['output']})")
            assert one.get_reward() == 0
        else:
            one.submit(row["query"])
            assert one.get_reward() == 1
            shown = one.run(row["query"])
            one.reset(**row)
            one.submit("values " + shown.strip().replace("[", "(").replace("]", ")"))
            assert one.get_reward() == 0


def test_built_in_tasks_say_what_is_wanted() -> None:
    draw = random.Random(3)
    for _ in range(50):
        row = python_task(draw)
        numbers = [int(x) for x in row["tests"][0]["input"].split("\n")]
        found = int(row["tests"][0]["output"])
        k = int(re.findall(r"\d+", row["prompt"])[0])
        if "divides" in row["prompt"]:
            assert found == sum(x for x in numbers if x % k == 0)
        elif "exceed" in row["prompt"]:
            assert found == sum(x > k for x in numbers)
        else:
            assert found == k * max(numbers) - min(numbers)


def test_built_in_rows_depend_on_part_and_seed_alone() -> None:
    first = environment_rows([python_task], "grpo", 7, 5).to_list()
    assert environment_rows([python_task], "grpo", 7, 5).to_list() == first
    assert environment_rows([python_task], "eval", 7, 5).to_list() != first
    assert environment_rows([python_task], "grpo", 8, 5).to_list() != first


def test_tools_are_described_to_the_model() -> None:
    words = tiny.tokenizer(QWEN3)
    kinds = {"python": PythonEnvironment, "sql": SQLEnvironment}
    given = tool_arguments(words, [], kinds)
    assert given == {"tools": [], "environment_factory": kinds}
    single = tool_arguments(words, [], {"sql": SQLEnvironment})
    assert single["environment_factory"] is SQLEnvironment
    for kind in kinds.values():
        names = [tool.__name__ for tool in environments.environment_tools(kind)]
        assert names == ["run", "submit"]


def test_a_row_of_an_unknown_environment_is_refused() -> None:
    kinds = {"python": PythonEnvironment, "sql": SQLEnvironment}
    with pytest.raises(UsageError, match="environment 'perl'"):
        check_rows([{"environment": "perl", "tests": TESTS}], kinds)
