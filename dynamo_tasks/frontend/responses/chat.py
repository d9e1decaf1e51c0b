"""A response's request as a chat: items become messages, its words the chat API's."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.protocol.http.items import message_content, message_text
from dynamo_tasks.protocol.http.responses import PASSED_ON, ResponseRequest, unpack_choice, unpack_tool

__all__ = ["as_written", "chat_body", "messages_of"]

_SAME = (
    "model", "stream", "background", "temperature", "top_p", "presence_penalty", "frequency_penalty",
    "parallel_tool_calls", "service_tier", "user",
)  # fmt: skip
"""Fields that a chat has under the same name."""
_RENAMED = {
    "messages": "input", "max_tokens": "max_output_tokens", "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format", "logprobs": "include", "reasoning_effort": "reasoning.effort",
}  # fmt: skip


def chat_body(
    request: ResponseRequest, body: dict[str, Any], messages: list[dict[str, Any]]
) -> dict[str, Any]:
    """The body of the chat that a response asks for.

    Raises:
        InvalidRequestError: names a tool, a choice or a format that there is not.
    """
    chat: dict[str, Any] = {name: body[name] for name in (*_SAME, *PASSED_ON) if body.get(name) is not None}
    chat["messages"] = messages
    if request.max_output_tokens is not None:
        chat["max_tokens"] = request.max_output_tokens
    if request.wants_logprobs:
        chat |= {"logprobs": True, "top_logprobs": request.top_logprobs or 0}
    if request.reasoning is not None and request.reasoning.effort:
        chat["reasoning_effort"] = request.reasoning.effort
    if request.tools:
        chat["tools"] = [unpack_tool(tool, f"tools[{place}]") for place, tool in enumerate(request.tools)]
    if request.tool_choice is not None:
        chat["tool_choice"] = unpack_choice(request.tool_choice)
    if request.text is not None and request.text.format:
        chat["response_format"] = _format(request.text.format)
    return chat


def _format(given: dict[str, Any]) -> dict[str, Any]:
    kind = given.get("type")
    if kind != "json_schema":
        if kind not in ("text", "json_object"):
            raise _refuse("text.format.type", "must be one of text, json_object, json_schema")
        return {"type": kind}
    if not isinstance(given.get("schema"), dict):
        raise _refuse("text.format.schema", "this field is required: a JSON schema")
    if not isinstance(given.get("name"), str):
        raise _refuse("text.format.name", "this field is required")
    names = ("name", "description", "schema", "strict")
    return {"type": kind, "json_schema": {name: given[name] for name in names if given.get(name) is not None}}


def messages_of(instructions: str | None, items: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages of a chat.

    What a model said in one turn (reasoning, text, calls) becomes one message of the assistant's, as templates have it.

    Args:
        instructions: The first message, of the system's.
        items: Plain items, the oldest first.
    """
    made = [] if instructions is None else [{"role": "system", "content": instructions}]
    turn: dict[str, Any] | None = None
    for item in items:
        if item["type"] == "function_call_output" or item.get("role", "assistant") != "assistant":
            turn = None
            made.append(_heard(item))
            continue
        if turn is None or _begins(turn, item):
            turn = {"role": "assistant", "content": None}
            made.append(turn)
        _said(turn, item)
    return made


def _heard(item: dict[str, Any]) -> dict[str, Any]:
    if item["type"] == "function_call_output":
        output = item["output"]
        content = output if isinstance(output, str) else message_content(output)
        return {"role": "tool", "tool_call_id": item["call_id"], "content": content}
    parts = item["content"]
    return {"role": item["role"], "content": message_content(parts)}


def _begins(turn: dict[str, Any], item: dict[str, Any]) -> bool:
    """Return whether an item of the model's is no part of a turn: a message or reasoning behind what it said before."""
    spoken = turn["content"] is not None or "tool_calls" in turn
    return spoken and item["type"] != "function_call"


def _said(turn: dict[str, Any], item: dict[str, Any]) -> None:
    if item["type"] == "message":
        turn["content"] = message_text(item["content"])
    elif item["type"] == "function_call":
        function = {"name": item["name"], "arguments": item["arguments"]}
        turn.setdefault("tool_calls", []).append(
            {"id": item["call_id"], "type": "function", "function": function}
        )
    else:
        parts = item.get("content") or item.get("summary") or ()
        text = "".join(part["text"] for part in parts)
        turn["reasoning_content"] = turn.get("reasoning_content", "") + text


def as_written(error: InvalidRequestError) -> InvalidRequestError:
    """An error about the chat, by the words that the client sent."""
    param = error.param or ""
    word = next(
        (word for word in _RENAMED if param == word or param.startswith((word + "[", word + "."))), None
    )
    if word is None:
        return error
    written = _RENAMED[word] if word == "messages" else _RENAMED[word] + param.removeprefix(word)
    message = error.message.replace(param, written, 1) if error.message.startswith(param) else error.message
    made = type(error)(message, param=written, retry_after=error.retry_after)
    return made


def _refuse(param: str, text: str) -> InvalidRequestError:
    return InvalidRequestError(f"{param}: {text}", param=param)
