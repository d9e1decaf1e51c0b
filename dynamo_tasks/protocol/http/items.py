"""Items of the Responses API: what a response is made of, and what conversations keep.

A message, a function call, its output, reasoning: each is checked here and becomes a plain object, with all that the
API shows of it. Items of tools that a provider runs itself are refused by their names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from dynamo_tasks.errors import InvalidRequestError
from dynamo_tasks.protocol.http.chat_messages import IMAGE_PART
from dynamo_tasks.protocol.http.openai import MAX_MESSAGES, named_error

__all__ = ["Item", "ItemReference", "check_ids", "message_content", "message_text", "parse_items", "shown"]

_Id = Annotated[str, Meta(min_length=1, max_length=256)]
_Detail = Literal["auto", "low", "high", "original"]
_Role = Literal["user", "assistant", "system", "developer"]
_FROM_MODEL = "assistant"


class _InputText(Struct, tag_field="type", tag="input_text"):
    text: str


class _InputImage(Struct, tag_field="type", tag="input_image"):
    detail: _Detail = "auto"
    image_url: Annotated[str, Meta(min_length=1)] | None = None
    file_id: _Id | None = None


class _OutputText(Struct, tag_field="type", tag="output_text"):
    text: str


class _Refusal(Struct, tag_field="type", tag="refusal"):
    refusal: str


class _ReasoningText(Struct, tag_field="type", tag="reasoning_text"):
    text: str


class _SummaryText(Struct, tag_field="type", tag="summary_text"):
    text: str


_Part = _InputText | _InputImage | _OutputText | _Refusal
_Parts = Annotated[list[_Part], Meta(max_length=1024)]


class _Message(Struct, tag_field="type", tag="message"):
    role: _Role
    content: str | _Parts
    id: _Id | None = None
    phase: Literal["commentary", "final_answer"] | None = None


class _FunctionCall(Struct, tag_field="type", tag="function_call"):
    call_id: _Id
    name: _Id
    arguments: str
    id: _Id | None = None


class _FunctionOutput(Struct, tag_field="type", tag="function_call_output"):
    call_id: _Id
    output: str | Annotated[list[_InputText | _InputImage], Meta(max_length=1024)]
    id: _Id | None = None


class _Reasoning(Struct, tag_field="type", tag="reasoning"):
    summary: Annotated[list[_SummaryText], Meta(max_length=1024)] = []
    content: Annotated[list[_ReasoningText], Meta(max_length=1024)] | None = None
    id: _Id | None = None


class ItemReference(Struct, tag_field="type", tag="item_reference"):
    """Stands for an item of a stored response.

    Attributes:
        id: The item's id.
    """

    id: _Id


Item = _Message | _FunctionCall | _FunctionOutput | _Reasoning | ItemReference
"""A checked item; :func:`shown` makes the plain object of it."""
_KINDS = ("message", "function_call", "function_call_output", "reasoning", "item_reference")
_HEARD = ("input_text", "input_image")
_SAID = ("input_text", "output_text", "refusal")


def parse_items(value: str | Sequence[Any], at: str = "input") -> list[Item]:
    """Check items; a text is one message of the user's.

    Args:
        value: As the client sent it.
        at: The field that they stand in, for messages.

    Raises:
        InvalidRequestError: names the field, and what is allowed.
    """
    if isinstance(value, str):
        return [_Message("user", value)]
    if len(value) > MAX_MESSAGES:
        raise _refuse(at, f"{len(value)} items; at most {MAX_MESSAGES} are allowed")
    items = [_typed(item, f"{at}[{place}]") for place, item in enumerate(value)]
    try:
        return msgspec.convert(items, list[Item])
    except msgspec.ValidationError as exc:
        error = named_error(exc)
        where = at + (error.param or "")
        raise _refuse(where, error.message.partition(": ")[2]) from None


def check_ids(items: Iterable[Item], known: Iterable[str], at: str = "input") -> None:
    """Refuse items that a conversation cannot keep beside each other: an id stands for one item.

    Args:
        items: That are to be added.
        known: Ids that are there.
        at: The field that they stand in, for messages.

    Raises:
        InvalidRequestError: An id stands twice.
    """
    seen = set(known)
    for place, item in enumerate(items):
        if item.id is None or isinstance(item, ItemReference):
            continue
        if item.id in seen:
            where = f"{at}[{place}].id"
            raise _refuse(where, f"another item has the id {item.id!r:.100} in this conversation")
        seen.add(item.id)


def _typed(item: Any, at: str) -> Any:
    """An item that says its type: an easy message need not."""
    if not isinstance(item, dict):
        raise _refuse(at, "must be an object")
    kind = item.get("type", "message" if "role" in item else None)
    if kind not in _KINDS:
        raise _refuse(f"{at}.type", f"{kind!r:.60} is not supported; supported: {', '.join(_KINDS)}")
    if kind == "function_call_output":
        _check_parts(item.get("output"), f"{at}.output", _HEARD)
    elif kind == "message":
        known = _SAID if item.get("role") == _FROM_MODEL else (*_HEARD, *_SAID[1:])
        _check_parts(item.get("content"), f"{at}.content", known)
    return item if "type" in item else {"type": kind, **item}


def _check_parts(content: Any, at: str, known: Iterable[str]) -> None:
    """Name what is not supported (files, audio) better than a schema does."""
    if not isinstance(content, list):
        return
    for place, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind not in known:
            where = f"{at}[{place}].type"
            raise _refuse(where, f"{kind!r:.60} is not supported; supported: {', '.join(known)}")
        if kind == "input_image":
            _check_image(part, f"{at}[{place}]")


def _check_image(part: Any, at: str) -> None:
    if part.get("file_id") is not None:
        raise _refuse(f"{at}.file_id", "is not supported; send image_url")
    if part.get("image_url") is None:
        raise _refuse(f"{at}.image_url", "this field is required")


def _refuse(param: str, text: str) -> InvalidRequestError:
    return InvalidRequestError(f"{param}: {text}", param=param)


def shown(item: Item, item_id: str) -> dict[str, Any]:
    """The plain object of an item, as the API shows and conversations keep it.

    Args:
        item: Any but an :class:`ItemReference`.
        item_id: Its id, where it did not bring one.
    """
    if isinstance(item, _Message):
        return _shown_message(item, item_id)
    if isinstance(item, _FunctionCall):
        rest = {"call_id": item.call_id, "name": item.name, "arguments": item.arguments}
        return {"id": item_id, "type": "function_call", "status": "completed", **rest}
    if isinstance(item, _FunctionOutput):
        output = item.output if isinstance(item.output, str) else msgspec.to_builtins(item.output)
        return {
            "id": item_id, "type": "function_call_output", "status": "completed", "call_id": item.call_id,
            "output": output,
        }  # fmt: skip
    assert isinstance(item, _Reasoning)
    content = None if item.content is None else msgspec.to_builtins(item.content)
    return {
        "id": item_id, "type": "reasoning", "status": "completed", "summary": msgspec.to_builtins(item.summary),
        "content": content, "encrypted_content": None,
    }  # fmt: skip


def _shown_message(item: _Message, item_id: str) -> dict[str, Any]:
    said = item.role == _FROM_MODEL
    content = item.content
    parts = [_OutputText(content) if said else _InputText(content)] if isinstance(content, str) else content
    more = {} if item.phase is None else {"phase": item.phase}
    return {
        "id": item_id, "type": "message", "status": "completed", "role": item.role,
        "content": [_shown_part(part) for part in parts], **more,
    }  # fmt: skip


def _shown_part(part: _Part) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(part)
    return {**plain, "annotations": [], "logprobs": []} if isinstance(part, _OutputText) else plain


def message_text(parts: Iterable[dict[str, Any]]) -> str:
    """The text of a plain message's parts, a line each."""
    return "\n".join([part[_WORDS[part["type"]]] for part in parts])


def message_content(parts: Sequence[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """The content of a chat's message: a text, or parts where there are images."""
    if all(part["type"] != "input_image" for part in parts):
        return message_text(parts)
    return [
        {"type": IMAGE_PART, IMAGE_PART: {"url": part["image_url"], "detail": part["detail"]}}
        if part["type"] == "input_image"
        else {"type": "text", "text": part[_WORDS[part["type"]]]}
        for part in parts
    ]


_WORDS = {"input_text": "text", "output_text": "text", "refusal": "refusal"}
