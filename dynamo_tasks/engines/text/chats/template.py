"""Chats: their tools, checked where the request comes in, and the template that makes a prompt of them.

Templates are the Jinja sources that models ship for Hugging Face ``apply_chat_template``. They come
with a model, so they run in Jinja's immutable sandbox, with the same helpers as there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from itertools import takewhile
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.protocol.http.bodies import decode_nested
from dynamo_tasks.protocol.instances import ModelCard

__all__ = [
    "DEFAULT_TEMPLATE",
    "Parts",
    "allowed_tools",
    "chat_of",
    "check_kind",
    "check_messages",
    "check_part",
    "checked_tools",
    "last_message",
    "render_chat",
]

_LOOKED_AT, _LAST = 64, 8192
"""Messages at the end of a chat, and characters of their text, that an engine hears of besides the prompt."""
_CHOICES = ("none", "auto", "required")
_FIELDS = ("tools", "tool_choice", "parallel_tool_calls", "chat_template_kwargs")


def chat_of(body: Mapping[str, Any], card: ModelCard) -> dict[str, Any] | None:
    """Fields of a chat that the model's parsers must know; ``None`` where they have nothing to read.

    Args:
        body: A chat request.
        card: The model that it names.

    Raises:
        InvalidRequestError: A tool or ``tool_choice`` is not valid, or asks for what only a parser can give.
    """
    tools, choice = body.get("tools") or [], body.get("tool_choice")
    _check_choice(choice, _names(tools))
    helped = card.tool_call_parser is not None or card.heeds_tool_choice
    if not helped and choice not in (None, "none", "auto"):
        raise InvalidRequestError(
            f"model {card.name!r} is served without a tool-call parser (Worker.tool_call_parser), so that "
            "tool_choice can only be none or auto",
            param="tool_choice",
        )
    if card.reasoning_parser is None and (card.tool_call_parser is None or not tools):
        return None
    return {name: body[name] for name in _FIELDS if body.get(name) is not None}


def allowed_tools(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """A chat request whose ``tool_choice`` of type ``allowed_tools`` is worked into its tools.

    Raises:
        InvalidRequestError: It is not valid, or names a tool that there is not.
    """
    choice = body.get("tool_choice")
    if not isinstance(choice, Mapping) or choice.get("type") != "allowed_tools":
        return body
    at = "tool_choice.allowed_tools"
    allowed = choice.get("allowed_tools", choice)
    mode, wanted = (
        (allowed.get("mode"), allowed.get("tools")) if isinstance(allowed, Mapping) else (None, None)
    )
    if mode not in ("auto", "required"):
        raise InvalidRequestError(
            f"{at}.mode must be one of auto, required, not {mode!r:.60}", param=f"{at}.mode"
        )
    if not isinstance(wanted, list) or not wanted:
        raise InvalidRequestError(f"{at}.tools must be a list of tools", param=f"{at}.tools")
    names = [_name(tool, f"{at}.tools[{index}]") for index, tool in enumerate(wanted)]
    known = dict(zip(_names(body.get("tools") or []), body.get("tools") or [], strict=True))
    if missing := [name for name in names if name not in known]:
        raise InvalidRequestError(
            f"{at}.tools: {missing[0]!r:.60} is not among the tools", param=f"{at}.tools"
        )
    return {**body, "tool_choice": mode, "tools": [known[name] for name in known if name in names]}


def checked_tools(body: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The JSON schemas of the tools of a chat request, by their names; its ``tool_choice`` is checked, too.

    Raises:
        InvalidRequestError: One of them is not valid.
    """
    tools = body.get("tools") or []
    names = _names(tools)
    _check_choice(body.get("tool_choice"), names)
    return {name: tool["function"].get("parameters") or {} for name, tool in zip(names, tools, strict=True)}


def last_message(messages: list[Any]) -> dict[str, str]:
    """The last message of a chat that was checked: ``{"role", "content"}``, the end of a long text.

    Several results of tools, one after another, are one message.
    """
    checked = check_messages(messages[-_LOOKED_AT:])
    role = checked[-1]["role"]
    texts = [str(checked[-1]["content"] or "")]
    if role in ("tool", "function"):
        results = takewhile(lambda message: message["role"] == role, reversed(checked))
        texts = [str(message["content"] or "") for message in results][::-1]
    return {"role": role, "content": "\n".join(texts)[-_LAST:]}


def check_kind(tool: Any, at: str) -> None:
    """Refuse a tool, a call of one or a choice that has a type, and another one than ``function``.

    Raises:
        InvalidRequestError: It is so.
    """
    kind = tool.get("type") if isinstance(tool, Mapping) else None
    if kind not in (None, "function"):
        where = f"{at}.type"
        raise InvalidRequestError(
            f"{where}: {kind!r:.60} is not supported; supported values are: 'function'", param=where
        )


def _names(tools: Any) -> list[str]:
    if not isinstance(tools, list):
        raise InvalidRequestError("tools must be a list of tools", param="tools")
    return [_name(tool, f"tools[{index}]") for index, tool in enumerate(tools)]


def _name(tool: Any, at: str) -> str:
    check_kind(tool, at)
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping):
        raise InvalidRequestError(f'{at} must be {{"type": "function", "function": {{…}}}}', param=at)
    name = function.get("name")
    if not isinstance(name, str) or not name:
        where = f"{at}.function.name"
        raise InvalidRequestError(f"{where} must be a string that is not empty", param=where)
    if not isinstance(function.get("parameters") or {}, Mapping):
        where = f"{at}.function.parameters"
        raise InvalidRequestError(f"{where} must be a JSON schema", param=where)
    return name


def _check_choice(choice: Any, names: list[str]) -> None:
    if choice is None or choice in ("none", "auto"):
        return
    if isinstance(choice, str) and choice not in _CHOICES:
        raise InvalidRequestError(
            f"tool_choice must be one of {', '.join(_CHOICES)}, or name a function, not {choice!r:.60}",
            param="tool_choice",
        )
    if not names:
        raise InvalidRequestError("tool_choice asks for a call, but there are no tools", param="tool_choice")
    if choice == "required":
        return
    check_kind(choice, "tool_choice")
    function = choice.get("function") if isinstance(choice, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if name not in names:
        raise InvalidRequestError(
            f'tool_choice must be {{"type": "function", "function": {{"name": …}}}} with one of '
            f"{', '.join(names)}, not {name!r:.60}",
            param="tool_choice",
        )


DEFAULT_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content or '' }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
"""One ``role: content`` line per message, then ``assistant:``."""


class Parts(list[dict[str, str]]):
    """Content as a list of checked parts, for a template that writes each of them by itself."""


_ROLES = ("system", "developer", "user", "assistant", "tool", "function")


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


def check_messages(messages: object) -> list[dict[str, Any]]:
    """Messages with their content as one string, or as :class:`Parts` (``None`` where an assistant only called tools).

    Raises:
        InvalidRequestError: ``param`` is, for example, ``messages[2].content[0].text``.
    """
    if not isinstance(messages, list | tuple):
        raise InvalidRequestError(
            f"messages must be a list of messages, not {type(messages).__name__}", param="messages"
        )
    if not messages:
        raise InvalidRequestError("messages is empty; at least one message is needed", param="messages")
    return [_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _message(message: object, at: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        _refuse(at, f"must be an object with role and content, not {type(message).__name__}")
    role = message.get("role")
    if role not in _ROLES:
        _refuse(f"{at}.role", f"must be one of {', '.join(_ROLES)}, not {role!r}")
    content = message.get("content")
    if content in (None, []) and role == "assistant":
        said = message.get("refusal")
        silent = None if message.get("tool_calls") or message.get("function_call") else ""
        return {**_with_calls(message, at), "content": said if isinstance(said, str) else silent}
    if content is None and role == "function":
        content = ""  # as the API has it
    if content is None:
        _refuse(f"{at}.content", "is missing; it must be a string or a list of text parts")
    return {**_with_calls(message, at), "content": _text(content, f"{at}.content")}


def _with_calls(message: Mapping[str, Any], at: str) -> Mapping[str, Any]:
    """Arguments of tool calls as objects: the API has them as JSON text, templates want to write them themselves."""
    calls = message.get("tool_calls")
    if not calls:
        return message
    if not isinstance(calls, list | tuple):
        _refuse(f"{at}.tool_calls", f"must be a list, not {type(calls).__name__}")
    return {**message, "tool_calls": [_call(call, f"{at}.tool_calls[{i}]") for i, call in enumerate(calls)]}


def _call(call: object, at: str) -> dict[str, Any]:
    check_kind(call, at)
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        _refuse(at, 'must be {"function": {"name": …, "arguments": …}}')
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        arguments = _decoded(arguments, f"{at}.function.arguments")
    return {**call, "function": {**function, "arguments": arguments}}


def _decoded(arguments: str, at: str) -> Any:
    try:
        return decode_nested(arguments.encode())
    except (InvalidRequestError, UnicodeEncodeError) as error:
        _refuse(at, f"cannot be used: {error}".replace("the body", "it"))


def _text(content: object, at: str) -> str | Parts:
    if isinstance(content, str | Parts):
        return content
    if not isinstance(content, list | tuple) or not content:
        _refuse(at, f"must be a string or a list of text parts, not {content!r:.40}")
    return "\n".join([check_part(part, f"{at}[{i}]") for i, part in enumerate(content)])


def check_part(part: object, at: str) -> str:
    """The text of a part.

    Raises:
        InvalidRequestError: It is a part of another kind.
    """
    if not isinstance(part, Mapping):
        _refuse(at, f'must be {{"type": "text", "text": …}}, not {type(part).__name__}')
    kind = part.get("type")
    if kind not in ("text", "refusal"):
        _refuse(f"{at}.type", f"must be 'text', not {kind!r:.60}; no other kind is supported by this model")
    text = part.get(kind)
    if not isinstance(text, str):
        _refuse(f"{at}.{kind}", f"must be a string, not {type(text).__name__}")
    return text


def _refuse(param: str, problem: str) -> NoReturn:
    raise InvalidRequestError(f"{param} {problem}", param=param)


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
