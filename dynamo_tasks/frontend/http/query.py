"""Query strings: flags, numbers, and of lists ``limit``, ``order``, ``after``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from starlette.requests import Request

from dynamo_tasks.errors import InvalidRequestError

__all__ = ["PageQuery", "flag", "listed", "number", "page_of", "page_query"]

_LONGEST = 150
_LONGEST_NUMBER = 16
_FLAGS = {"true": True, "1": True, "false": False, "0": False, "": False}


class PageQuery(Struct, frozen=True):
    """The page of a list that is asked for.

    Attributes:
        limit: Most rows.
        order: ``asc`` or ``desc``, by creation.
        after: Id of the last row that is known; empty = from the start.
    """

    limit: int
    order: str
    after: str


def page_query(request: Request, *, usual: int = 20, most: int = 100) -> PageQuery:
    """Read the page that a request asks for.

    Args:
        request: Any with a query string.
        usual: Rows where none are named.
        most: Rows that may be asked for.

    Raises:
        InvalidRequestError: names the parameter, and what is allowed.
    """
    query = request.query_params
    limit, order, after = query.get("limit"), query.get("order", "desc"), query.get("after", "")
    if limit is not None and not (limit.isascii() and limit.isdecimal() and 1 <= int(limit[:9]) <= most):
        raise InvalidRequestError(f"limit must be a number of 1 to {most}, not {limit!r:.60}", param="limit")
    if order not in ("asc", "desc"):
        raise InvalidRequestError(f"order must be asc or desc, not {order!r:.60}", param="order")
    if len(after) > _LONGEST:
        raise InvalidRequestError(f"after must be an id, not {len(after)} characters", param="after")
    return PageQuery(usual if limit is None else int(limit), order, after)


def flag(request: Request, name: str) -> bool:
    """A parameter that is true or false; false by default.

    Raises:
        InvalidRequestError: It is something else.
    """
    value = request.query_params.get(name, "").lower()
    if value not in _FLAGS:
        raise InvalidRequestError(f"{name}: {value!r:.60} is not true or false", param=name)
    return _FLAGS[value]


def number(request: Request, name: str, default: int, least: int, most: int) -> int:
    """A parameter that is a whole number.

    Raises:
        InvalidRequestError: It is something else, or out of bounds.
    """
    text = request.query_params.get(name)
    if text is None:
        return default
    if text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER and least <= int(text) <= most:
        return int(text)
    raise InvalidRequestError(
        f"{name}: must be a whole number of {least} to {most}, not {text!r:.60}", param=name
    )


def page_of(items: Sequence[dict[str, Any]], asked: PageQuery) -> dict[str, Any]:
    """A page of a list that is there as a whole.

    Args:
        items: Plain objects with an ``id``, the oldest first.
        asked: The part that is asked for.

    Raises:
        InvalidRequestError: No item has the id ``after``.
    """
    ordered = items[::-1] if asked.order == "desc" else items
    start = 0
    if asked.after:
        place = next((place for place, item in enumerate(ordered) if item["id"] == asked.after), None)
        if place is None:
            raise InvalidRequestError(f"after: no item has the id {asked.after!r:.100}", param="after")
        start = place + 1
    return listed(ordered[start : start + asked.limit], more=start + asked.limit < len(ordered))


def listed(items: Sequence[dict[str, Any]], *, more: bool) -> dict[str, Any]:
    """The ``list`` object of a page."""
    return {
        "object": "list", "data": items, "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None, "has_more": more,
    }  # fmt: skip
