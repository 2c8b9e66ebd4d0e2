"""Templates render as transformers renders them, in a sandbox, and refuse with a reason."""

from datetime import datetime
from typing import Any

import pytest

from ridgeline.protocol import Message, Refusal
from ridgeline.text.chat_template import ChatTemplate

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
CHAT = [("system", "Be é brief."), ("user", "Hi <b>&'\"\n漢"), ("assistant", "Ho "), ("user", "  so? ")]
TEMPLATES = {
    "json keeps unicode": "{{ messages | tojson }}{{ messages[0] | tojson(indent=2) }}",
    "blocks are trimmed": (
        "{% for m in messages %}\n    {% if true %}\n{{ m.content }}\n    {% endif %}\n{% endfor %}\n"
    ),
    "loop controls": (
        "{% for m in messages %}{% if loop.index0 == 2 %}{% break %}{% endif %}{{ m.role }}{% endfor %}"
    ),
    "namespace": (
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}"
    ),
    "generation": (
        "{% for m in messages %}{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content }}{% endgeneration %}"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    ),
    "named tokens": "{{ bos_token }}{{ messages[0]['content'] }}{{ eos_token }}{{ pad_token }}",
    "prompt": "{{ messages[-1].content | trim }}{% if add_generation_prompt %} A:{% endif %}",
    "undefined are empty": "[{{ tools }}{{ documents }}{{ nothing }}{{ messages[0].name }}]",
    "slices and methods": (
        "{{ messages[::-1] | map(attribute='role') | join(',') }}{{ messages[1].content.split() }}"
    ),
    "date": "{{ strftime_now('%Y') }}",
    "macros": "{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(messages[0].role) }}",
    "dict": "{{ dict(a=1, b=messages[0].role) | tojson }}",
}


def _theirs(template: str, chat: list[tuple[str, str]], continued: bool = False) -> str:
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered: tuple[list[str], Any] = render_jinja_template(
        conversations=[[{"role": role, "content": content} for role, content in chat]],
        chat_template=template,
        add_generation_prompt=not continued,
        continue_final_message=continued,
        **TOKENS,
    )
    return rendered[0][0]


def _ours(template: str, chat: list[tuple[str, str]], continued: bool = False) -> str:
    messages = [Message(role, content) for role, content in chat]
    return ChatTemplate(template, TOKENS).render(messages, continue_final_message=continued)


@pytest.mark.parametrize("name", TEMPLATES)
def test_rendering_equals_transformers(name: str) -> None:
    assert _ours(TEMPLATES[name], CHAT) == _theirs(TEMPLATES[name], CHAT)


@pytest.mark.parametrize("ending", ["One,", "One, ", "  ", "", "One\n\n", "{{ x }}"])
@pytest.mark.parametrize("content", ["m.content", "m.content | trim", "m.content.strip() + '\n'"])
def test_continuing_equals_transformers(ending: str, content: str) -> None:
    template = "{% for m in messages %}[{{ m.role }}] {{ " + content + " }}</s>{% endfor %}"
    chat = [("user", "Count."), ("assistant", ending)]
    assert _ours(template, chat, True) == _theirs(template, chat, True)


def test_date_is_today() -> None:
    assert _ours("{{ strftime_now('%Y-%m-%d') }}", CHAT) == datetime.now().strftime("%Y-%m-%d")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('Only user and assistant roles!') }}", "Only user and assistant roles!"),
        ("{{ messages[9].content.strip() }}", "no element 9"),
        ("{{ messages[0].role + 1 }}", "fails on the messages"),
        ("{{ messages.append(1) }}", "not safely callable|SecurityError|unsafe"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ range(10 ** 9) }}", "Range too big"),
    ],
)
def test_what_a_template_cannot_do_is_refused(template: str, reason: str) -> None:
    with pytest.raises(Refusal, match=reason) as refusal:
        _ours(template, CHAT)
    assert refusal.value.code == "invalid_request"
    assert refusal.value.param == "messages"


def test_continuing_nothing_is_refused() -> None:
    with pytest.raises(Refusal, match="no final message"):
        _ours("x", [], True)


def test_continuing_a_dropped_message_is_refused() -> None:
    with pytest.raises(Refusal, match="drops the final message"):
        _ours("{{ messages[0].content }}", CHAT, True)


def test_broken_template_is_told_at_once() -> None:
    with pytest.raises(ValueError, match="does not compile"):
        ChatTemplate("{% for %}", TOKENS)
