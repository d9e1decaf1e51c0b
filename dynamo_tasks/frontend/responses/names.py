"""Ids of responses and of their items: made of the id of the request, so that every frontend makes the same."""

from __future__ import annotations

import re
import uuid

__all__ = ["input_id", "output_id", "owner_of", "request_id_of", "response_id"]

_RESPONSE = re.compile(r"resp_([0-9a-f]{32})")
_ITEM = re.compile(r"(?:msg|rs|fc|fco|in)_([0-9a-f]{32})_\d{1,6}")


def response_id(request_id: str) -> str:
    """``resp_<hex>``, for a request whose id is a UUID."""
    return f"resp_{_hex(request_id)}"


def request_id_of(name: str) -> str | None:
    """The id of a response's request; ``None`` where it is no id of a response."""
    found = _RESPONSE.fullmatch(name)
    return str(uuid.UUID(found[1])) if found else None


def output_id(kind: str, request_id: str, index: int) -> str:
    """The id of an item of the answer; ``kind`` is ``msg``, ``rs`` or ``fc``."""
    return f"{kind}_{_hex(request_id)}_{index}"


def input_id(request_id: str, index: int) -> str:
    """The id of an item of the input that did not bring one."""
    return f"in_{_hex(request_id)}_{index}"


def owner_of(item_id: str) -> str | None:
    """The id of the request that an item belongs to; ``None`` where its id does not say it."""
    found = _ITEM.fullmatch(item_id)
    return str(uuid.UUID(found[1])) if found else None


def _hex(request_id: str) -> str:
    return request_id.replace("-", "")
