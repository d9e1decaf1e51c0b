"""Reading streams at rest."""

from __future__ import annotations

from dynamo_tasks.errors import ProtocolError
from dynamo_tasks.protocol.events import UNREADABLE, ZERO, Event, EventId
from dynamo_tasks.store.redis.server import Store
from dynamo_tasks.store.redis.wire import Reply

__all__ = ["decode_row", "read_all"]

PAGE = 1000


def decode_row(row: Reply) -> Event:
    """An entry as XRANGE returns it.

    Raises:
        ProtocolError: it has other fields than the one of an event.
    """
    try:
        event_id, (kind, data) = row
        return Event(EventId.parse(event_id.decode()), kind.decode(), data)
    except UNREADABLE as exc:
        raise ProtocolError(f"an entry of a stream cannot be read: {exc}") from exc


async def read_all(store: Store, namespace: str, request_id: str, after: EventId = ZERO) -> list[Event]:
    """Read all events of a stream after the id ``after``, as they are now."""
    key = store.keys(namespace).stream(request_id)
    events: list[Event] = []
    while True:
        page = await store.commands.execute("XRANGE", key, f"({after}", "+", "COUNT", PAGE)
        events += [decode_row(row) for row in page]
        if len(page) < PAGE:
            return events
        after = events[-1].id
