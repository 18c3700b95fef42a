"""Rules for the task rewards and for the coherence reward."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator
from typing import Any

from carl_bundle.errors import Problem
from carl_bundle.spec.blocks import Reward
from carl_bundle.spec.passthrough import check_plain
from carl_bundle.spec.phases import RLOOSettings, SampledSettings
from carl_bundle.spec.train_spec import TrainSpec

_FUNCTION = re.compile(r"(?P<path>[^:]+\.py):(?P<name>[A-Za-z_]\w*)")

OPTIONS: dict[str, frozenset[str]] = {
    "exact_answer": frozenset({"extract"}),
    "math_answer": frozenset(),
    "reasoning_gym": frozenset(),
    "pattern": frozenset({"pattern", "full"}),
    "length": frozenset({"target", "tolerance"}),
    "tool_call_format": frozenset({"tools"}),
    "tool_selection": frozenset({"tools"}),
    "tool_chain": frozenset(),
    "structure": frozenset(),
    "conciseness": frozenset({"pattern"}),
    "click_inside": frozenset({"width", "height", "scale"}),
    "click_distance": frozenset({"width", "height", "scale"}),
    "coordinate_format": frozenset(),
    "function": frozenset(),
}
"""Which fields belong to which reward, beside name, function and weight."""

_COLUMN = {
    "exact_answer": "answer",
    "math_answer": "answer",
    "reasoning_gym": "metadata",
    "tool_selection": "expected_tools",
    "tool_chain": "expected_tools",
    "click_inside": "bbox",
    "click_distance": "bbox",
}

NO_REWARD = (
    "name a built-in scorer (rewards: [{name: exact_answer}]), "
    "or a function of yours (rewards: [{function: 'rewards.py:score'}]), "
    "or train without rewards (method: sft)"
)


def needed_columns(reward: Reward) -> tuple[str, ...]:
    """The columns without which a reward of tools or of clicks has no score."""
    if reward.name == "tool_call_format":
        return () if reward.tools else ("tools",)
    needed = [_COLUMN[reward.name]] if reward.name in _COLUMN else []
    if reward.scale:
        needed += [one for one in ("width", "height") if getattr(reward, one) is None]
    return tuple(needed)


def reward_rules(spec: TrainSpec) -> Iterator[Problem]:
    """Yield what is wrong with the task rewards."""
    if not spec.rewards and not spec.environments and spec.sampled:
        yield Problem(
            "rewards",
            f"{spec.method} needs at least one task reward, and this data brings none",
            NO_REWARD,
        )
    sources = (spec.sampled.data or spec.data).sources if spec.sampled else ()
    builtin = any(source.is_builtin for source in sources)
    seen: set[str] = set()
    for index, reward in enumerate(spec.rewards):
        where = f"rewards.{index}"
        yield from _one_reward(where, reward)
        own = () if spec.environments else ("answer",)
        absent = [name for name in needed_columns(reward) if name not in own]
        if builtin and absent:
            yield Problem(
                where,
                f"needs {' and '.join(absent)}, which the built-in task has not",
                "name rows with such a column (data: rows.jsonl)",
            )
        label = reward.name or reward.function or ""
        if label in seen:
            yield Problem(where, f"{label} stands there twice", "keep one of them")
        seen.add(label)
    weights = [reward.weight for reward in spec.rewards]
    if weights and not any(weights) and not spec.environments:
        yield Problem("rewards", "every weight is 0", "give one a positive weight")


def _one_reward(where: str, reward: Reward) -> Iterator[Problem]:
    if (reward.name is None) == (reward.function is None):
        yield Problem(
            where,
            "needs exactly one of `name` and `function`",
            "name a built-in scorer (name: exact_answer), or give `function: "
            "file.py:name`",
        )
        return
    kind = reward.name or "function"
    for field in sorted({o for options in OPTIONS.values() for o in options}):
        given = getattr(reward, field) != type(reward).model_fields[field].default
        if given and field not in OPTIONS[kind]:
            owner = next(name for name, own in OPTIONS.items() if field in own)
            yield Problem(
                f"{where}.{field}",
                f"does not belong to {kind}, but to {owner}",
                "remove it, or change the reward's name",
            )
    if reward.function is not None:
        yield from _function(f"{where}.function", reward.function)
    if reward.extract is not None:
        yield from _pattern(f"{where}.extract", reward.extract, groups=1)
    if reward.pattern is not None:
        yield from _pattern(f"{where}.pattern", reward.pattern, groups=None)
    elif kind == "pattern":
        yield Problem(f"{where}.pattern", "is missing", "give a regular expression")
    yield from _tools(f"{where}.tools", reward.tools or ())
    if kind == "length" and reward.target is None:
        yield Problem(f"{where}.target", "is missing", "give a length in tokens")


def names_user_code(text: str) -> bool:
    """Whether a text is `path.py:name`."""
    match = _FUNCTION.fullmatch(text)
    return match is not None and not keyword.iskeyword(match["name"])


def _function(where: str, text: str) -> Iterator[Problem]:
    if not names_user_code(text):
        yield Problem(
            where, f"{text!r} names no function", "write it as path.py:function"
        )


def _tools(where: str, tools: tuple[dict[str, Any], ...]) -> Iterator[Problem]:
    for index, tool in enumerate(tools):
        inner = tool.get("function", tool)
        named = isinstance(inner, dict) and isinstance(inner.get("name"), str)
        schema = inner.get("parameters", {}) if named else {}
        if not named or not isinstance(schema, dict):
            yield Problem(
                f"{where}.{index}",
                "is no tool as chat templates take it",
                "write {name: read, parameters: {type: object, properties: {...}}}",
            )
        try:
            check_plain(tool, 0)
        except ValueError as error:
            yield Problem(f"{where}.{index}", str(error), "correct the value")


def _pattern(where: str, text: str, groups: int | None) -> Iterator[Problem]:
    try:
        compiled = re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        yield Problem(where, f"is no regular expression: {error}", "correct it")
        return
    if groups is not None and compiled.groups != groups:
        yield Problem(
            where,
            f"has {compiled.groups} groups; the answer is what one group matches",
            "mark the answer with one (...) and write other groups as (?:...)",
        )


def generation_faults(spec: TrainSpec, phase: SampledSettings) -> list[str]:
    """What keeps the field from being seen while completions are generated."""
    paged = phase.trainer.get("use_transformers_continuous_batching", False)
    faults = {
        "rloo scores its samples itself": isinstance(phase, RLOOSettings),
        "continuous batching shows no logits": paged,
        "vLLM shows no logits": phase.vllm is not None,
        "calls of tools part a completion": spec.calls_tools,
    }
    return [fault for fault, present in faults.items() if present]


def carl_rules(spec: TrainSpec) -> Iterator[Problem]:
    """Yield what is wrong with the coherence reward and its cascade."""
    carl = spec.carl
    if not carl.enabled:
        return
    phase = spec.sampled
    faults = generation_faults(spec, phase) if phase else []
    if carl.field == "generation" and faults:
        remedy = "set carl.field to auto"
        yield Problem("carl.field", f"cannot be generation: {faults[0]}", remedy)
    total = sum(carl.weights)
    if abs(total - 1.0) > 1e-9:
        yield Problem(
            "carl.weights",
            f"coherence, cloud and discontinuity sum to {total:.9g}",
            "make them sum to 1, and scale the whole by carl.weight",
        )
    if carl.cascade == "fixed" and carl.carl_start is None:
        yield Problem(
            "carl.carl_start, carl.cascade",
            "a fixed cascade needs the step at which CARL enters",
            "set carl.carl_start, or set carl.cascade to adaptive",
        )
    if carl.cascade == "adaptive" and carl.carl_start is not None:
        yield Problem(
            "carl.carl_start, carl.cascade",
            "an adaptive cascade finds its own step",
            "set carl.open_by for a latest step, or set carl.cascade to fixed",
        )
    if carl.cascade == "fixed" and carl.open_by is not None:
        yield Problem(
            "carl.open_by, carl.cascade",
            "a fixed cascade opens at carl.carl_start",
            "remove it, or set carl.cascade to adaptive",
        )
