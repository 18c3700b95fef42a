"""Whether a chat template makes a model think, found by rendering it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

Mode = Literal["none", "switchable", "always"]

_MESSAGES = [{"role": "user", "content": "How many?"}]
_PARTS = [{"role": "user", "content": [{"type": "text", "text": "How many?"}]}]
_SWITCH = re.compile(r"think|reason", re.IGNORECASE)
_STATES: tuple[tuple[Any, Any], ...] = ((True, False), ("low", "high"))
_TODAY = "1970-01-01"
"""What `strftime_now` returns, so that a rendering does not depend on the day."""


@dataclass(frozen=True)
class Thinking:
    """How a template treats thinking.

    Attributes:
        mode: `none`; `switchable` by the template variable `switch`; `always`: the
            prompt for an answer already opens a thinking block.
        switch: Name of the variable, such as `enable_thinking`.
        boolean: Whether it is true or false, and not an effort.
    """

    mode: Mode
    switch: str | None = None
    boolean: bool = False


def template_fault(template: str) -> str | None:
    """Return why a chat template is no Jinja that transformers could read, or None."""
    import jinja2

    try:
        template_environment().parse(template)
    except (jinja2.TemplateError, RecursionError) as error:
        return str(TemplateError(error))
    return None


class TemplateError(Exception):
    """A chat template cannot be rendered; the message says why, in plain letters."""

    def __init__(self, error: Exception) -> None:
        reason = "".join(c if c.isprintable() else " " for c in str(error)[:200])
        super().__init__(f"{type(error).__name__}: {reason}")


def detect_thinking(template: str, tokens: dict[str, str]) -> Thinking:
    """Render a chat template both ways and compare.

    Args:
        template: The Jinja source.
        tokens: Special tokens by name, such as `bos_token`.

    Raises:
        TemplateError: It cannot be rendered.
    """
    import jinja2
    from jinja2 import meta

    environment = template_environment()
    try:
        tree = environment.parse(template)
        names = sorted(
            name
            for name in meta.find_undeclared_variables(tree)
            if _SWITCH.search(name)
        )
        compiled = environment.from_string(template)
        plain = _render(compiled, tokens, {})
        for name in names:
            for on, off in _STATES:
                if _differs(compiled, tokens, name, on, off):
                    printed = "True" in _render(compiled, tokens, {name: on})
                    return Thinking("switchable", name, on is True and not printed)
    except (jinja2.TemplateError, ArithmeticError, LookupError) as error:
        raise TemplateError(error) from error
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise TemplateError(error) from error
    tail = plain[-40:]
    opened = tail.rfind("<think") > tail.rfind("</think")
    return Thinking("always" if opened else "none")


def _differs(
    compiled: Any, tokens: dict[str, str], name: str, on: Any, off: Any
) -> bool:
    """Whether a variable changes the prompt; a state it refuses changes nothing."""
    import jinja2

    try:
        return _render(compiled, tokens, {name: on}) != _render(
            compiled, tokens, {name: off}
        )
    except (jinja2.TemplateError, TypeError, ValueError):
        return False


def _render(compiled: Any, tokens: dict[str, str], extra: dict[str, Any]) -> str:
    """Render one user turn; templates for images take content as parts."""
    import jinja2

    arguments = {"add_generation_prompt": True, "tools": None, **tokens, **extra}
    try:
        return str(compiled.render(messages=_MESSAGES, **arguments))
    except (jinja2.TemplateError, TypeError, AttributeError):
        return str(compiled.render(messages=_PARTS, **arguments))


def template_environment() -> Any:
    """Return the sandbox that transformers renders chat templates in."""
    import jinja2
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks what the assistant wrote; rendered as it is."""

        tags = {"generation"}  # noqa: RUF012 (jinja2's own declaration)

        def parse(self, parser: Any) -> nodes.Node | list[nodes.Node]:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[Generation, "jinja2.ext.loopcontrols"],
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda _format: _TODAY
    return environment
