"""Tool rewards: are the right tools called, in the right form, and briefly? In [0, 1].

A call is an object with a `name` and an object of `arguments` (or `parameters`): one of
TRL's structured `tool_calls`, JSON in the text, or Qwen's `<function=...>`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from statistics import fmean
from typing import Any

from carl_runtime_min.tasks import RowReward, answer_text

JSON_TYPES = {
    "array": (list,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "object": (dict,),
    "string": (str,),
}


def as_json(value: Any) -> Any:
    """What a text holds as JSON; other texts and other values as they are."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value


def as_dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def is_named(value: dict[str, Any]) -> bool:
    return isinstance(value.get("name"), str) and bool(value["name"])


def functions(values: Any) -> list[dict[str, Any]]:
    """The calls, or tools, in a list; it may be JSON in text, as may each of them."""
    values = as_json(values)
    found = map(as_dict, map(as_json, values if isinstance(values, list) else []))
    return [as_dict(one.get("function")) or one for one in found if one]


def function_blocks(text: str) -> tuple[list[dict[str, Any]], str]:
    """`<function=f><parameter=x>1</parameter></function>` as objects, and the rest."""
    rest, *blocks = text.split("<function=")
    found = []
    for block in blocks:
        inside, closed, after = block.partition("</function>")
        name, _, body = inside.partition(">")
        parts = body.split("<parameter=")[1:]
        given = {}
        for key, _, value in (part.partition(">") for part in parts):
            given[key.strip()] = value.partition("</parameter>")[0].strip("\n")
        whole = body.count("</parameter>") == len(parts)
        arguments = (given or body.strip() or {}) if whole else None
        if closed:
            found.append({"name": name.strip(), "arguments": arguments})
        rest += after if closed else f"<function={block}"
    return found, rest


def json_objects(text: str) -> Iterator[tuple[dict[str, Any], int]]:
    """The JSON objects in a text that lie in no other, each with its length."""
    decode, begin = json.JSONDecoder().raw_decode, re.compile(r'\{\s*+"')
    found = begin.search(text)
    while found:
        try:
            value, end = decode(text, found.start())
            yield as_dict(value.get("function")) or value, end - found.start()
        except RecursionError:  # nested too deeply to be read
            return
        except ValueError as error:  # `pos` is where it stops being JSON
            end = max(found.end(), getattr(error, "pos", 0))
        found = begin.search(text, end)


def json_size(values: list[Any]) -> int:
    """Characters of values as JSON; 0 for what cannot be written as such."""
    try:
        return len(json.dumps(values)) if values else 0
    except (TypeError, ValueError, RecursionError):
        return 0


class ToolUse:
    """What a completion holds: `objects`, and the `calls` among them, as pairs.

    Also how many calls were `begun`, the `text` after all thoughts, the `share` of the
    characters in objects, and the names the row `wanted`, None if it says nothing.
    """

    def __init__(self, row: dict[str, Any]) -> None:
        turns = row["completions"]
        turns = [{"content": turns}] if isinstance(turns, str) else turns
        turns = [turn for turn in turns if turn.get("role", "assistant") == "assistant"]
        self.text = "\n".join(answer_text([turn]) for turn in turns).strip()
        given = [call for turn in turns for call in functions(turn.get("tool_calls"))]
        blocks, rest = function_blocks(self.text)
        parsed = list(json_objects(rest))
        self.objects = [*given, *blocks, *(value for value, _ in parsed)]
        self.calls = []
        for one in self.objects:
            arguments = as_json(one.get("arguments", one.get("parameters")))
            whole = is_named(one) and isinstance(arguments, dict)
            if whole and not {"type", "properties"} <= arguments.keys():  # a definition
                self.calls.append((one["name"], arguments))
        self.begun = max(len(self.calls), self.text.count("<tool_call>"))
        inside = len(self.text) - len(rest) + sum(size for _, size in parsed)
        beside = json_size(given)
        self.share = (inside + beside) / max(1, len(self.text) + beside)
        wanted = as_json(row.get("expected_tools"))
        wanted = [wanted] if isinstance(wanted, str) else wanted
        named = isinstance(wanted, list) and all(isinstance(w, str) for w in wanted)
        self.wanted = wanted if named else None
        self.rightly_none = wanted == [] and not self.calls and bool(self.text)


def tool_schemas(tools: Any) -> dict[str, dict[str, Any]]:
    """The parameters of each tool, by name, from a list as chat templates take it."""
    named = filter(is_named, functions(tools))
    return {tool["name"]: as_dict(tool.get("parameters")) for tool in named}


def follows(arguments: dict[str, Any], schema: dict[str, Any]) -> bool:
    """Whether no required argument lacks, none is unknown, and each is of its type.

    Text that holds JSON is also of the type of that JSON.
    """
    required, known = schema.get("required"), schema.get("properties")
    if isinstance(required, list) and any(n not in list(arguments) for n in required):
        return False
    for name, value in arguments.items() if isinstance(known, dict) else ():
        declared = as_dict(known).get(name)
        if not isinstance(declared, dict) and not schema.get("additionalProperties"):
            return False
        kind = as_dict(declared).get("type")
        types = JSON_TYPES.get(kind) if isinstance(kind, str) else None
        if types and type(value) not in types and type(as_json(value)) not in types:
            return False
    return True


def tool_call_format_reward(options: dict[str, Any]) -> RowReward:
    """Mean over the calls: 1 if it follows the schema of a known tool, else 0.8.

    Without a call 0.6 for an object with a name, 0.3 for another one, 0 for none.
    """

    def scorer(text: str, count: int, row: dict[str, Any]) -> float | None:
        use, tools = ToolUse(row), tool_schemas(options["tools"] or row.get("tools"))
        if not tools:
            return None
        if not use.calls:
            return (
                0.6 if any(map(is_named, use.objects)) else 0.3 if use.objects else 0.0
            )
        good = [name in tools and follows(x, tools[name]) for name, x in use.calls]
        return sum(1.0 if one else 0.8 for one in good) / use.begun

    column = "prompts" if options["tools"] else "tools"
    return RowReward("tool_call_format", scorer, column)


def tool_selection_reward(options: dict[str, Any]) -> RowReward:
    """Mean over the calls: 1 for an expected tool, 0.5 for a known one, else 0."""

    def scorer(text: str, count: int, row: dict[str, Any]) -> float | None:
        use, tools = ToolUse(row), tool_schemas(options["tools"] or row.get("tools"))
        wanted = use.wanted
        if wanted is None:
            return None
        if not use.calls:
            return float(use.rightly_none)
        return fmean(1 if n in wanted else 0.5 * (n in tools) for n, _ in use.calls)

    return RowReward("tool_selection", scorer, "expected_tools")


def tool_chain_reward(options: dict[str, Any]) -> RowReward:
    """How much of the expected chain was called in its order, over all calls."""

    def scorer(text: str, count: int, row: dict[str, Any]) -> float | None:
        use, done = ToolUse(row), 0
        if use.wanted is None:
            return None
        for name, _ in use.calls:
            done += use.wanted[done : done + 1] == [name]
        longest = max(len(use.wanted), len(use.calls))
        return done / longest if longest else float(use.rightly_none)

    return RowReward("tool_chain", scorer, "expected_tools")


def structure_reward(options: dict[str, Any]) -> RowReward:
    """Twice the share of the characters that lie in calls and JSON objects, up to 1."""

    def scorer(text: str, count: int, row: dict[str, Any]) -> float:
        return min(1.0, 2 * ToolUse(row).share)

    return RowReward("structure", scorer)


def conciseness_reward(options: dict[str, Any]) -> RowReward:
    """1 - tokens / limit for a call, or for what `pattern` finds; else 0.

    Where the row expects no call, it is for any answer without one instead.
    """
    limit, pattern = options["limit"], options["pattern"]
    compiled = re.compile(pattern, re.DOTALL) if pattern else None

    def scorer(text: str, count: int, row: dict[str, Any]) -> float:
        use = ToolUse(row)
        called = bool(use.calls) and use.wanted != []
        found = compiled is not None and compiled.search(use.text) is not None
        done = called or use.rightly_none or found
        return max(0.0, 1 - count / limit) if done else 0.0

    return RowReward("conciseness", scorer)
