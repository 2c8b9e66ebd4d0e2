"""Rendering a conversation with a model's own Jinja template, in a sandbox."""

import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from jinja2 import nodes, parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ridgeline.protocol import Message, Refusal


class _Generation(jinja2.ext.Extension):
    """`{% generation %} ... {% endgeneration %}` marks answers for training; here it is only a block."""

    tags = {"generation"}  # noqa: RUF012 - the name and type are Jinja's

    def parse(self, parser: parser.Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON: Jinja's own filter escapes for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _strftime_now(layout: str) -> str:
    return datetime.now().strftime(layout)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


class ChatTemplate:
    """A compiled template. Templates come with models and are not trusted."""

    def __init__(self, source: str, named_tokens: Mapping[str, str]) -> None:
        """Compile `source`; `named_tokens` are its `bos_token`, `eos_token` and the like.

        Raises:
            ValueError: if it is not valid Jinja.
        """
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateError as error:
            raise ValueError(f"the chat template does not compile: {error}") from error
        self._named_tokens = dict(named_tokens)
        self._end_mark = str(secrets.randbits(96))

    def render(self, messages: Sequence[Message], *, continue_final_message: bool = False) -> str:
        """The conversation as text, up to where the answer begins.

        Raises:
            Refusal: `invalid_request` on `messages`, with the template's own words.
        """
        turns = [{"role": m.role, "content": m.content} for m in messages]
        if continue_final_message:
            if not turns:
                raise _refusal("there is no final message to continue")
            turns[-1]["content"] += self._end_mark + " "
        try:
            rendered = self._template.render(
                messages=turns,
                tools=None,
                documents=None,
                add_generation_prompt=not continue_final_message,
                **self._named_tokens,
            )
        except jinja2.TemplateError as error:
            raise _refusal(f"the model's chat template refuses the messages: {error}") from error
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError) as error:
            raise _refusal(f"the model's chat template fails on the messages: {error}") from error
        return self._cut(rendered) if continue_final_message else rendered

    def _cut(self, rendered: str) -> str:
        """Everything before the end of the last message; stripped if the template strips contents."""
        at = rendered.rfind(self._end_mark)
        if at < 0:
            raise _refusal("the model's chat template drops the final message, so it cannot be continued")
        kept = rendered[:at]
        return kept if rendered.startswith(self._end_mark + " ", at) else kept.rstrip()


def _refusal(reason: str) -> Refusal:
    return Refusal("invalid_request", reason, param="messages")
