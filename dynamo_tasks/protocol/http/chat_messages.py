"""Messages of chats, as they stand in the body of a request: roles, texts, images, calls of tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from msgspec import Meta, Struct

from dynamo_tasks.errors import InvalidRequestError

__all__ = [
    "DETAILS",
    "IMAGE_PART",
    "ROLES",
    "ContentPart",
    "ImageUrl",
    "Message",
    "check_message",
    "has_parts",
    "refused",
]

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
"""Roles of chat messages."""
IMAGE_PART = "image_url"
"""Type of a part that is an image, and its field."""
DETAILS = ("auto", "low", "high", "original")
"""Values of an image's ``detail``."""
_MAY_BE_SILENT = ("assistant", "function")
"""Roles whose messages may have no content."""
_PARTS = ("text", "refusal", IMAGE_PART)
"""Types of parts whose field has the same name."""

# Of what is echoed in errors, compared, or kept as it is.
_Name = Annotated[str, Meta(max_length=256)]
_Role = Annotated[str, Meta(max_length=32, extra_json_schema={"enum": list(ROLES)})]
_Detail = Annotated[str, Meta(max_length=32, extra_json_schema={"enum": list(DETAILS)})]


class ImageUrl(Struct):
    """An image: a ``data:`` URL, or one that the server fetches; ``detail`` is checked, and changes nothing."""

    url: Annotated[str, Meta(min_length=1)]
    detail: _Detail | None = None


class ContentPart(Struct):
    """A part of a message's content: a text, an image, or what an assistant said when it refused."""

    type: _Name
    text: str | None = None
    refusal: str | None = None
    image_url: ImageUrl | str | None = None


class Message(Struct):
    """A chat message; ``content`` may be missing only in those of an assistant, who may have called tools instead."""

    role: _Role
    content: str | Annotated[list[ContentPart], Meta(max_length=1024)] | None = None
    refusal: str | None = None
    name: _Name | None = None
    tool_calls: Annotated[list[dict[str, Any]], Meta(max_length=512)] | None = None
    tool_call_id: _Name | None = None


def check_message(where: str, message: Message) -> None:
    """Refuse what the types cannot say.

    Args:
        where: Its place: ``messages[0]``.
        message: It.

    Raises:
        InvalidRequestError: Names the field, and what is allowed.
    """
    if message.role not in ROLES:
        raise refused(f"{where}.role", f"{message.role!r} is not one of {', '.join(ROLES)}")
    if not message.content and not isinstance(message.content, str):
        if message.role not in _MAY_BE_SILENT:
            raise refused(f"{where}.content", "this field is required (a string or a list of parts)")
    elif not isinstance(message.content, str):
        for index, part in enumerate(message.content):
            _check_part(f"{where}.content[{index}]", part)


def has_parts(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether the content of any message of a checked chat is in parts; only these may hold more than text."""
    return list in {type(one.get("content")) for one in messages}


def _check_part(where: str, part: ContentPart) -> None:
    kind = part.type
    if kind in _PARTS and getattr(part, kind) is None:
        raise refused(f"{where}.{kind}", f"this field is required in a {kind} part")
    if isinstance(part.image_url, ImageUrl) and part.image_url.detail not in (None, *DETAILS):
        raise refused(f"{where}.image_url.detail", f"must be one of {', '.join(DETAILS)}")


def refused(param: str, text: str) -> InvalidRequestError:
    """The error for a field, which it names."""
    return InvalidRequestError(f"{param}: {text}", param=param)
