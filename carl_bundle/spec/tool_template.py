"""Whether a chat template can show a model calls of tools, found by rendering one."""

from __future__ import annotations

from typing import Any

from carl_bundle.spec.thinking import template_environment

_PARTS = (
    "a_tool_of_carl",
    "an_argument_of_carl",
    "a_value_of_carl",
    "a_result_of_carl",
)


def shows_tool_calls(template: str, tokens: dict[str, str]) -> bool:
    """Whether name, argument and result of a call all appear, as TRL demands.

    Args:
        template: The Jinja source.
        tokens: Special tokens by name, such as `bos_token`.
    """
    import jinja2

    name, argument, value, result = _PARTS
    mapping: Any = {argument: value}
    for arguments in (mapping, f'{{"{argument}": "{value}"}}'):  # some want JSON
        function = {"name": name, "arguments": arguments}
        calls = [{"type": "function", "function": function}]
        messages = [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "", "tool_calls": calls},
            {"role": "tool", "name": name, "content": result},
        ]
        try:
            compiled = template_environment().from_string(template)
            text = str(compiled.render(messages=messages, tools=None, **tokens))
        except TypeError:
            continue
        except (jinja2.TemplateError, LookupError, ValueError, AttributeError):
            return False
        return all(part in text for part in _PARTS)
    return False
