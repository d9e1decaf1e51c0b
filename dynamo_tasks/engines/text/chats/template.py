"""The template that makes a prompt of a chat. It is slow to import (Jinja): done where a chat is rendered.

Templates are the Jinja sources that models ship for Hugging Face ``apply_chat_template``. They come
with a model, so they run in Jinja's immutable sandbox, with the same helpers as there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from dynamo_tasks.engines.text.chats.messages import check_messages
from dynamo_tasks.errors import InvalidRequestError

__all__ = ["DEFAULT_TEMPLATE", "render_chat"]

DEFAULT_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content or '' }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
"""One ``role: content`` line per message, then ``assistant:``."""


class _RefusedError(TemplateError):
    """A template called ``raise_exception``."""


def render_chat(
    messages: object, template: str | None = None, variables: Mapping[str, Any] | None = None
) -> str:
    """Render messages to a prompt.

    Args:
        messages: A list of ``{"role", "content", …}``; content is a string or a list of
            ``{"type": "text", "text": …}`` parts, which are joined by line breaks; or :class:`Parts`, left as they are.
        template: Jinja source; ``None`` = :data:`DEFAULT_TEMPLATE`.
        variables: For the template: ``add_generation_prompt`` (default true), ``tools``, ``bos_token``,
            ``eos_token``, …

    Raises:
        InvalidRequestError: a message is not valid, or the template refuses or cannot handle the
            messages; ``param`` says which. Or the template itself is not valid Jinja
            (``param="chat_template"``).
    """
    source = DEFAULT_TEMPLATE if template is None else template
    checked = check_messages(messages)
    if "developer" not in source:
        # The newer word for it, which most templates do not know: some print it, some leave the message out.
        checked = [_as_system(message) if message["role"] == "developer" else message for message in checked]
    compiled = _compile(source)
    known = {
        "add_generation_prompt": True,
        "tools": None,
        "documents": None,
        "bos_token": "",
        "eos_token": "",
    }
    try:
        return compiled.render(known | dict(variables or {}) | {"messages": checked})
    except _RefusedError as error:
        raise InvalidRequestError(
            f"the chat template refuses the messages: {error.message}", param="messages"
        ) from error
    except (
        TemplateError,
        TypeError,
        ValueError,
        LookupError,
        ArithmeticError,
        AttributeError,
        RecursionError,
        MemoryError,
    ) as error:
        raise InvalidRequestError(
            f"the chat template cannot render the messages: {error}", param="messages"
        ) from error


def _as_system(message: dict[str, Any]) -> dict[str, Any]:
    return {**message, "role": "system"}


@lru_cache(maxsize=64)
def _compile(source: str) -> Template:
    try:
        return _environment().from_string(source)
    except TemplateError as error:
        raise InvalidRequestError(
            f"the chat template is not valid Jinja: {error}", param="chat_template"
        ) from error


class _Generation(Extension):
    """The tag ``generation``: around what a model says, so that a training knows it; rendering shows what is inside."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        inside = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(inside, lineno=line)


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    """The environment that ``transformers`` gives to templates (``chat_template_utils.py``)."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(value: object, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    # Jinja's own filter escapes HTML, which would change the prompt.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _raise_exception(message: str) -> NoReturn:
    raise _RefusedError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().astimezone().strftime(format)
