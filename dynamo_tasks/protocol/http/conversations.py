"""Bodies of conversations, checked."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from dynamo_tasks.protocol.http.openai import named_error
from dynamo_tasks.protocol.http.responses import Metadata

__all__ = ["MAX_ADDED", "ConversationChange", "ConversationRequest", "ItemsRequest", "parse_body"]

MAX_ADDED = 20
"""Items that may be added at a time, as at OpenAI."""
_Items = Annotated[list[Any], Meta(max_length=MAX_ADDED)]


class ConversationRequest(Struct):
    """``POST /v1/conversations``."""

    items: _Items | None = None
    metadata: Metadata | None = None


class ConversationChange(Struct):
    """``POST /v1/conversations/{id}``."""

    metadata: Metadata | None


class ItemsRequest(Struct):
    """``POST /v1/conversations/{id}/items``."""

    items: Annotated[list[Any], Meta(min_length=1, max_length=MAX_ADDED)]


_Body = TypeVar("_Body", ConversationRequest, ConversationChange, ItemsRequest)


def parse_body(kind: type[_Body], body: dict[str, Any]) -> _Body:
    """Check a body; items by :func:`~dynamo_tasks.protocol.http.items.parse_items`.

    Raises:
        InvalidRequestError: names the field, and what is allowed.
    """
    try:
        return msgspec.convert(body, kind)
    except msgspec.ValidationError as exc:
        raise named_error(exc) from None
