"""Server-sent events of endpoints that are no completions: each value as JSON.

A log event may hold several values, and each is an SSE event of its own. The last one has the id of the
log event; those before it have ``<epoch>-<seq>.<k>``, ``k`` of its values being counted. So a client that was
cut off in between goes on exactly where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from dynamo_tasks.errors import DynamoError, InvalidEventIdError
from dynamo_tasks.frontend.openai.render import (
    DONE,
    EndsWithDone,
    attempt_comment,
    error_event,
    one_line,
    values_of,
)
from dynamo_tasks.protocol.events import ZERO, Claim, End, Event, EventId, Kind
from dynamo_tasks.protocol.tokens import decode_deltas

__all__ = ["FROM_START", "Position", "ValueRenderer", "parse_position"]

_DIGITS = 10
_json = msgspec.json.Encoder().encode


class Position(msgspec.Struct, frozen=True):
    """The position at which a reader goes on.

    Attributes:
        after: The last event that it knows; ``None`` = from the start.
        skip: Values of the event after that which it knows, too.
    """

    after: EventId | None = None
    skip: int = 0


FROM_START = Position()
"""The position of a reader that has nothing."""


def parse_position(text: str | None) -> Position:
    """Parse ``<epoch>-<seq>`` or ``<epoch>-<seq>.<k>``; empty = the start.

    Raises:
        InvalidEventIdError: Something else.
    """
    if not text:
        return Position()
    base, dot, count = text.partition(".")
    event = EventId.parse(base)
    if not dot:
        return Position(None if event == ZERO else event)
    if not (count.isascii() and count.isdigit() and len(count) <= _DIGITS) or event.seq == 0:
        raise InvalidEventIdError(f"event id {text[:100]!r} is not <epoch>-<seq> or <epoch>-<seq>.<number>")
    return Position(EventId(event.epoch, event.seq - 1), int(count))


class ValueRenderer(EndsWithDone):
    """Renders the values that an endpoint yields, and the one that it returns."""

    def __init__(self, skip: int = 0):
        """Make the renderer.

        Args:
            skip: Leave out that many values of the first event.
        """
        self._skip = skip
        self.tokens = 0
        self.ended = False
        self.error: DynamoError | None = None
        self.usage: dict[str, int] | None = None

    def render(self, events: Sequence[Event]) -> bytes:
        """The SSE bytes of some events; may be empty."""
        return one_line(b"".join([self._one(event) for event in events]))

    def _one(self, event: Event) -> bytes:
        if event.kind == Kind.CLAIM:
            claim = Claim.decode(event.data)
            return b"" if claim.previous == ZERO else attempt_comment(claim)
        if event.kind == Kind.END:
            return self._end(event)
        if event.kind == Kind.TOKENS:
            deltas = decode_deltas(event.data)
            self.tokens += sum(len(delta.token_ids) for delta in deltas)
            return self._values(event.id, [delta.as_dict() for delta in deltas])
        return self._values(event.id, values_of(event))

    def _values(self, event: EventId, values: list[Any]) -> bytes:
        skip, self._skip = self._skip, 0
        last = len(values)
        out = []
        for number, value in enumerate(values[skip:], skip + 1):
            sub = b"" if number == last else b".%d" % number
            out.append(b"id: %d-%d%b\ndata: %b\n\n" % (*event, sub, _json(value)))
        return b"".join(out)

    def _end(self, event: Event) -> bytes:
        end = End.decode(event.data)
        self.ended, self.error, self.usage = True, end.failure(), end.usage
        if self.error is not None:
            return b"id: %d-%d\n%b%b" % (*event.id, error_event(self.error), DONE)
        if end.values and self._skip < len(end.values):
            return self._values(event.id, end.values) + DONE
        return b"id: %d-%d\n%b" % (*event.id, DONE)
