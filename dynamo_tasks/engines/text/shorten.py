"""Requests that are too long for their model, and may be shortened: by as little as need be.

A request says so itself, in its field ``shorten``: so it is done wherever its tokens are made, in the frontend's
process or in a Processor far away.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from dynamo_tasks.errors import ContextLengthError, InvalidRequestError

__all__ = ["SHORTEN", "Shorten", "fitting"]

SHORTEN = "shorten"
"""The field; engines do not see it."""


class Shorten(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The ways in which a request may be shortened.

    Attributes:
        oldest: Whether the oldest messages may be left out; never the last one, nor a call without its outputs.
        kept: Messages before these.
        limit: Whether its limit of tokens may be that of the model instead.
    """

    oldest: bool = False
    kept: int = 0
    limit: bool = False

    def bodies(self, body: dict[str, Any]) -> list[Callable[[], dict[str, Any]]]:
        """Make the bodies to try when they are asked for, each one shorter than the one before."""
        if self.limit:
            return [lambda: {name: value for name, value in body.items() if name != "max_tokens"}]
        if not self.oldest:
            return []
        first, rest = body["messages"][: self.kept], body["messages"][self.kept :]

        def without(count: int) -> dict[str, Any]:
            return {**body, "messages": first + rest[count:]}

        return [partial(without, count) for count in range(1, len(rest)) if rest[count]["role"] != "tool"]


def fitting(body: dict[str, Any], prepare: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Prepare a body; where that is too long and may be shortened, as much of it as fits.

    Args:
        body: With its field :data:`SHORTEN`.
        prepare: Of a body without it; raises :class:`ContextLengthError`.

    Raises:
        ContextLengthError: However it is shortened, it is too long.
        InvalidRequestError: The field is not valid.
    """
    try:
        asked = msgspec.convert(body[SHORTEN], Shorten)
    except msgspec.ValidationError as exc:
        raise InvalidRequestError(f"{SHORTEN}: {exc}", param=SHORTEN) from None
    body = {name: value for name, value in body.items() if name != SHORTEN}
    try:
        return prepare(body)
    except ContextLengthError:
        bodies = asked.bodies(body)
        if not bodies:
            raise
    return _least(bodies, prepare)


def _least(
    bodies: list[Callable[[], dict[str, Any]]], prepare: Callable[[dict[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    low, high = 0, len(bodies) - 1
    found = prepare(bodies[high]())
    while low < high:
        middle = (low + high) // 2
        try:
            found = prepare(bodies[middle]())
            high = middle
        except ContextLengthError:
            low = middle + 1
    return found
