"""The thinking mode is what rendering the template shows."""

from __future__ import annotations

import pytest

from carl_bundle.spec.model_spec import ModelSpec
from carl_bundle.spec.thinking import TemplateError, Thinking, detect_thinking
from carl_bundle.spec.unknown import Unknown
from tests.spec.conftest import QWEN3, MakeModel

TURNS = "{% for m in messages %}<|{{ m.role }}|>{{ m['content'] }}{% endfor %}"
PROMPT = "{% if add_generation_prompt %}<|assistant|>"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (TURNS + PROMPT + "{% endif %}", Thinking("none")),
        (TURNS + PROMPT + "<think>\n{% endif %}", Thinking("always")),
        (TURNS + PROMPT + "<think>\n\n</think>\n{% endif %}", Thinking("none")),
        (
            TURNS
            + PROMPT
            + "{% if enable_thinking is defined and not enable_thinking %}"
            + "<think></think>{% endif %}{% endif %}",
            Thinking("switchable", "enable_thinking", boolean=True),
        ),
        (
            TURNS + "{% if thinking %}<think>{% endif %}",
            Thinking("switchable", "thinking", boolean=True),
        ),
        (
            "Reasoning: {{ reasoning_effort or 'medium' }}" + TURNS,
            Thinking("switchable", "reasoning_effort"),
        ),
        (
            "{% set thinking = 'x' %}" + TURNS + "{{ thinking }}",
            Thinking("none"),
        ),
        (
            "{{ bos_token }}{% for m in messages %}{% generation %}{{ m.content }}"
            "{% endgeneration %}{% if loop.last %}{% break %}{% endif %}{% endfor %}"
            "{{ strftime_now('%Y') }}{{ messages | tojson }}",
            Thinking("none"),
        ),
        (
            "{% for m in messages %}{% for part in m.content %}{{ part['text'] }}"
            "{% endfor %}{% endfor %}",
            Thinking("none"),
        ),
    ],
)
def test_a_template_shows_how_it_thinks(template: str, expected: Thinking) -> None:
    assert detect_thinking(template, {"bos_token": "<s>"}) == expected


@pytest.mark.parametrize(
    "template",
    [
        "{% if %}",
        "{{ raise_exception('no') }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{% for i in range(999999999) %}{% endfor %}",
        "{{ 1 / 0 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_a_template_that_does_not_render_says_why(template: str) -> None:
    with pytest.raises(TemplateError) as caught:
        detect_thinking(template, {})

    assert str(caught.value).isprintable()


def test_a_template_that_does_not_render_is_unknown(make_model: MakeModel) -> None:
    directory = make_model(QWEN3, chat_template__jinja="{% if %}")
    thinking = ModelSpec.from_pretrained(directory).thinking

    assert isinstance(thinking, Unknown)
    assert "does not render" in thinking.reason


def test_a_template_is_found_in_the_tokenizer_config(make_model: MakeModel) -> None:
    directory = make_model(
        QWEN3,
        tokenizer_config__json='{"chat_template": [{"name": "tool", "template": ""},'
        '{"name": "default", "template": "{% if thinking %}a{% endif %}"}],'
        '"eos_token": {"content": "</s>"}}',
    )

    assert ModelSpec.from_pretrained(directory).thinking == Thinking(
        "switchable", "thinking", boolean=True
    )
