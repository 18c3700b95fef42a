"""Tool rewards: calls in every native format, the old ways to cheat, and any input."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trl import chat_template_utils

from carl_runtime_min.errors import UsageError
from carl_runtime_min.tool_rewards import (
    conciseness_reward,
    structure_reward,
    tool_call_format_reward,
    tool_chain_reward,
    tool_selection_reward,
)
from tests import tiny


def tool(name: str, required: list[str], **properties: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": properties, "required": required}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


TEXT = {"type": "string"}
TOOLS = [
    tool("read", ["path"], path=TEXT, lines={"type": "integer"}),
    tool("search", ["query"], query=TEXT, tags={"type": "array"}),
    tool("now", []),
]
REWARDS = {
    "format": tool_call_format_reward({"tools": None}),
    "selection": tool_selection_reward({"tools": None}),
    "chain": tool_chain_reward({}),
    "structure": structure_reward({}),
    "conciseness": conciseness_reward({"limit": 100, "pattern": None}),
}
ROW = {"tools": TOOLS, "expected_tools": ["read"]}


def call(name: str = "read", key: str = "arguments", **arguments: Any) -> str:
    return json.dumps({"name": name, key: arguments or {"path": "a.txt"}})


def score(which: str, completion: Any, tokens: int = 20, **row: Any) -> Any:
    columns = {name: [value] for name, value in {**ROW, **row}.items()}
    batch = {"prompts": ["?"], "completions": [completion], **columns}
    found = REWARDS[which](completion_ids=[[1] * tokens], trainer_state=None, **batch)
    return found[0]


def says(content: Any = "", **fields: Any) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": content, **fields}]


def structured(arguments: Any, name: Any = "read") -> list[dict[str, Any]]:
    function = {"name": name, "arguments": arguments}
    return says(tool_calls=[{"type": "function", "function": function}])


RIGHT: dict[str, Any] = {
    "marked": f"<tool_call>\n{call()}\n</tool_call>",
    "in a conversation": says(f"I look.\n<tool_call>\n{call()}\n</tool_call>"),
    "bare": call(),
    "bare, among words": f"Let me see {{well}}: {call()} - done :-}}",
    "llama": call(key="parameters"),
    "llama's tag": '<function=read>{"path": "a.txt"}</function>',
    "fenced": f"```json\n{call()}\n```",
    "a list": f"[{call()}, {call()}]",
    "openai": json.dumps({"type": "function", "function": json.loads(call())}),
    "text as arguments": json.dumps({"name": "read", "arguments": '{"path": "a"}'}),
    "qwen": "<tool_call>\n<function=read>\n<parameter=path>\na.txt\n</parameter>\n"
    "<parameter=lines>\n3\n</parameter>\n</function>\n</tool_call>",
    "qwen, json within": "<function=read><parameter=path>"
    '{"name": "x", "arguments": {}}</parameter></function>',
    "braces in a string": call(path="{{{"),
    "after thoughts": f'<think>{{"name": 1}} perhaps</think>{call()}',
    "trl": structured({"path": "a.txt"}),
    "trl, text as arguments": structured('{"path": "a.txt"}'),
    "trl, before the answer": [
        *structured({"path": "a.txt"}),
        {"role": "tool", "name": "read", "content": '{"name": "x", "arguments": {}}'},
        *says("It says 7."),
    ],
}


@pytest.mark.parametrize("completion", RIGHT.values(), ids=RIGHT)
def test_a_right_call_is_read_in_every_format(completion: Any) -> None:
    assert score("format", completion) == 1
    assert score("selection", completion) == 1
    assert score("chain", completion) in (1, 0.5)  # 0.5 where it is called twice
    assert score("conciseness", completion) == 0.8


NATIVE = {
    "qwen3": f"Look.\n<tool_call>\n{call()}\n</tool_call>",
    "qwen3_5": "<tool_call>\n<function=read>\n<parameter=path>\na\n</parameter>\n"
    "<parameter=lines>\n3\n</parameter>\n</function>\n</tool_call>",
    "gemma4": '<|tool_call>call:read{path:<|"|>a.txt<|"|>}<tool_call|>',
    "glm4moe": "<tool_call>read\n<arg_key>path</arg_key>\n<arg_value>a</arg_value>\n"
    "</tool_call>",
}


@pytest.mark.parametrize("family", NATIVE)
def test_what_trl_makes_of_native_formats_is_read(family: str) -> None:
    words = tiny.tokenizer()
    words.response_template = getattr(chat_template_utils, f"{family}_template")
    ids, prefix = words(NATIVE[family]), words("<|im_start|>assistant\n")
    turn = chat_template_utils.parse_response(
        words, ids["input_ids"], prefix=prefix["input_ids"]
    )
    assert turn["tool_calls"]
    assert score("format", [turn]) == 1
    assert score("chain", [turn]) == 1


@pytest.mark.parametrize(
    ("completion", "value"),
    [
        ("hi", 0),
        ("", 0),
        ("{}", 0),
        ('{"path": "a"', 0),
        ('{"path": "a.txt"}', 0.3),
        ('{"name": "read"}', 0.6),
        ('{"name": "read", "arguments": "a.txt"}', 0.6),
        ('{"name": "read", "arguments": null}', 0.6),
        ('{"name": ["read"], "arguments": {"path": "a"}}', 0.3),
        (structured({"path": "a.txt"}, name=None), 0.3),
        ("<function=read><parameter=path>a</function>", 0.6),
        ("<function=read><parameter=path>a</parameter>", 0),
        (call("delete"), 0.8),
        (call(file="a.txt"), 0.8),
        (call(path="a.txt", mode="w"), 0.8),
        (call(path=3), 0.8),
        (call(path="a.txt", lines=True), 0.8),
        (call(path="a.txt", lines="3"), 1),  # as Qwen's format has it
        (call(path="3"), 1),
        (f"{call()} {call('delete')}", 0.9),
        (f"<tool_call>{call()}</tool_call><tool_call>{{oops</tool_call>", 0.5),
        (f"<think>{call()}</think>", 0),
        (f"<think>{call()}", 0),
    ],
)
def test_the_steps_of_the_format(completion: Any, value: float) -> None:
    assert score("format", completion) == pytest.approx(value)


LOOSE = {
    "name": "loose",
    "parameters": {"type": "object", "additionalProperties": True},
}


@pytest.mark.parametrize(
    ("tools", "value"),
    [
        (json.dumps(TOOLS), 1),
        ([json.dumps(one) for one in TOOLS], 1),
        ([one["function"] for one in TOOLS], 1),
        ([{"name": "read"}], 1),
        ([{"name": "read", "parameters": LOOSE["parameters"]}], 1),
        ([tool("read", [], path=TEXT, query=None)], 1),  # as Arrow fills rows up
        ([tool("read", [], path=None, query=TEXT)], 0.8),
        ([tool("read", [], path={})], 1),
        ([tool("read", [], path={"type": ["string", "null"]})], 1),
        ([tool("write", ["path"], path=TEXT)], 0.8),
        ([], None),
        (None, None),
        ("none", None),
    ],
)
def test_schemas_of_the_data(tools: Any, value: float | None) -> None:
    assert score("format", call(), tools=tools) == value


def test_schemas_of_the_spec_need_no_column() -> None:
    reward = tool_call_format_reward({"tools": TOOLS})
    batch = {"prompts": ["?"], "completions": [call()], "completion_ids": [[1]]}
    assert reward(**batch) == [1]
    assert reward(**batch, tools=[[]]) == [1]
    with pytest.raises(UsageError, match="no column 'tools'"):
        REWARDS["format"](**batch)
    selection = tool_selection_reward({"tools": TOOLS})
    assert selection(**batch, expected_tools=[["now"]]) == [0.5]


@pytest.mark.parametrize(
    ("texts", "expected", "selection", "chain"),
    [
        ([], ["read"], 0, 0),
        (["read"], ["read"], 1, 1),
        (["read"], "read", 1, 1),
        (["read"], '["read"]', 1, 1),
        (["search"], ["read"], 0.5, 0),
        (["delete"], ["read"], 0, 0),
        (["read", "search"], ["read", "search"], 1, 1),
        (["search", "read"], ["read", "search"], 1, 0.5),
        (["read"], ["read", "search"], 1, 0.5),
        (["read", "read", "read", "read"], ["read"], 1, 0.25),
        (["read", "delete"], ["read"], 0.5, 0.5),
        (["read"], [], 0.5, 0),
        ([], [], 1, 1),
        (["read"], None, None, None),
        (["read"], [3], None, None),
        (["read"], {}, None, None),
    ],
)
def test_selection_and_chain(
    texts: list[str], expected: Any, selection: Any, chain: Any
) -> None:
    text = "So: " + " then ".join(map(call, texts))
    assert score("selection", text, expected_tools=expected) == selection
    assert score("chain", text, expected_tools=expected) == chain


def test_a_call_has_a_name_and_arguments() -> None:
    for which in ("selection", "chain", "conciseness"):
        for text in ('{"name": "read"}', "<function=></function>"):
            assert score(which, text) == 0


def test_a_tool_repeated_from_the_prompt_is_no_call() -> None:
    for which in ("selection", "chain", "conciseness"):
        assert score(which, json.dumps(TOOLS)) == 0


def test_missing_columns_are_named() -> None:
    batch = {"prompts": ["?"], "completions": ["x"], "completion_ids": [[1]]}
    for which in ("selection", "chain"):
        with pytest.raises(UsageError, match="no column 'expected_tools'"):
            REWARDS[which](**batch)


CHEATS = ["hi", "", " ", "{}", "[]", "```\n```", "```hi```", "<tool_call></tool_call>"]
CHEATS += ["<think></think>", "read", "<function=>", "{:}", "name arguments"]


@pytest.mark.parametrize("text", CHEATS)
def test_what_once_was_rewarded_earns_nothing(text: str) -> None:
    for which in REWARDS:
        assert score(which, text) == 0
        assert score(which, says(text)) == 0


def test_no_call_is_only_right_where_none_is_expected_and_something_is_said() -> None:
    for which in ("selection", "chain", "conciseness"):
        assert score(which, "It is 7.", expected_tools=[]) > 0
        for text in ("", "<think>hm</think>", "<think>It is 7."):
            assert score(which, text, expected_tools=[]) == 0
    assert score("conciseness", call(), expected_tools=[]) == 0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (call(), 1),
        ('{"a": 1}xxxxxxxx', 1),
        ('{"a": 1}' + "x" * 24, 0.5),
        ("x" * 40, 0),
        ("{" * 40, 0),
        ("<function=f></function>" + "x" * 69, 0.5),
        (structured({"path": "a.txt"}), 1),
    ],
)
def test_structure_is_a_share_of_the_text(text: Any, value: float) -> None:
    assert score("structure", text) == pytest.approx(value)


def test_prose_beside_structured_calls_counts() -> None:
    turn = structured({"path": "a.txt"})[0]
    assert 0 < score("structure", [{**turn, "content": "so " * 500}]) < 0.2


def test_conciseness_counts_tokens_of_what_answers() -> None:
    assert [score("conciseness", call(), tokens=n) for n in (0, 25, 100, 300)] == [
        1,
        0.75,
        0,
        0,
    ]
    assert score("conciseness", call(), expected_tools=None) == 0.8
    REWARDS["answered"] = conciseness_reward({"limit": 100, "pattern": r"= \d"})
    assert score("answered", "x = 7") == 0.8
    assert score("answered", "<think>x = 7</think> hi") == 0
    del REWARDS["answered"]


DEEP = (
    "[" * 100_000,
    '{"a":' * 1_000_000,
    "{" * 1_000_000,
    '{"name":' * 9 + "[" * 100_000,
)
HARD = [
    '{"name": {}, "arguments": {}}',
    '{"name": "read", "arguments": {"path": NaN, "lines": 1e999}}',
    '{"name": "read", "arguments": {"lines": ' + "9" * 10_000 + "}}",
    '{"name": "read", "arguments": "' + "[" * 100_000 + '"}',
    '{"function": [], "name": 3}',
    "\ud800{\ud800}",
    "<function=" * 10_000,
    "<function=f>" + "<parameter=" * 10_000 + "</function>",
    '{"a": "' * 10_000,
    '{"a": "{\\"' * 10_000,
]


@pytest.mark.parametrize("text", [*DEEP, *HARD])
def test_hard_texts_are_scored(text: str) -> None:
    """In time that grows with their length; with its square it would be minutes."""
    for which in REWARDS:
        found = score(which, text)
        assert math.isfinite(found)
        assert 0 <= found <= 1


def deep(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("depth", [100, 400, 900, 20_000])
def test_deep_values_in_structured_calls(depth: int) -> None:
    for which in REWARDS:
        found = score(which, structured({"path": deep(depth)}))
        assert 0 <= found <= 1


NUMBERS = st.integers() | st.floats() | st.just(10**400)
NAMES = st.sampled_from(
    ["name", "arguments", "parameters", "function", "properties", "required", "type"]
)
LEAVES = st.none() | st.booleans() | NUMBERS | st.sampled_from(["read", "now"])
JSON = st.recursive(
    LEAVES | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(NAMES | st.text(max_size=4), inner, max_size=5),
    max_leaves=12,
)
TAGS = "tool_call /tool_call function=f /function parameter=p /parameter think /think"
PIECES = st.sampled_from([*(f"<{tag}>" for tag in TAGS.split()), *'{}">', "```json"])
TEXTS = st.lists(PIECES | st.text(max_size=9) | JSON.map(json.dumps)).map("".join)
CALLS = st.fixed_dictionaries({"name": st.just("read") | JSON, "arguments": JSON})
TURNS = st.fixed_dictionaries(
    {"role": st.sampled_from(["assistant", "tool"])},
    optional={"content": TEXTS | JSON, "tool_calls": st.lists(CALLS) | JSON},
)


@given(
    TEXTS | st.lists(TURNS, max_size=3),
    JSON | st.just(TOOLS),
    JSON | st.just(["read"]),
    st.integers(0, 300),
)
def test_any_completion_and_any_row_have_a_score(
    completion: Any, tools: Any, expected: Any, tokens: int
) -> None:
    for which in REWARDS:
        found = score(which, completion, tokens, tools=tools, expected_tools=expected)
        assert found is None or (math.isfinite(found) and 0 <= found <= 1)
