"""Messages of a chat, checked: each has a role, and one text as its content, or parts."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from typing import Any, NoReturn

from dynamo_tasks.engines.text.chats.tools import check_kind
from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.protocol.http.bodies import decode_nested

__all__ = ["Parts", "check_messages", "check_part", "last_message"]

_LOOKED_AT, _LAST = 64, 8192
"""Messages at the end of a chat, and characters of their text, that an engine hears of besides the prompt."""


class Parts(list[dict[str, str]]):
    """Content as a list of checked parts, for a template that writes each of them by itself."""


_ROLES = ("system", "developer", "user", "assistant", "tool", "function")


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
