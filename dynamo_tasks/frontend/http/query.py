"""Query strings of lists: ``limit``, ``order``, ``after``."""

from __future__ import annotations

from msgspec import Struct
from starlette.requests import Request

from dynamo_tasks.errors import InvalidRequestError

__all__ = ["PageQuery", "page_query"]

_LONGEST = 150


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
    limit, order, after = query.get("limit", ""), query.get("order", "desc"), query.get("after", "")
    if limit and not (limit.isascii() and limit.isdecimal() and 1 <= int(limit[:9]) <= most):
        raise InvalidRequestError(f"limit must be a number of 1 to {most}, not {limit!r:.60}", param="limit")
    if order not in ("asc", "desc"):
        raise InvalidRequestError(f"order must be asc or desc, not {order!r:.60}", param="order")
    if len(after) > _LONGEST:
        raise InvalidRequestError(f"after must be an id, not {len(after)} characters", param="after")
    return PageQuery(int(limit) if limit else usual, order, after)
