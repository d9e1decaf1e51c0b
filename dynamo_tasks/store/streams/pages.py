"""Reading the streams of many readers at once, page by page, with replies of a bounded size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dynamo_tasks.errors import DynamoError, ProtocolError, StreamExpiredError
from dynamo_tasks.observe import metrics
from dynamo_tasks.protocol.events import EventId
from dynamo_tasks.protocol.states import TERMINAL, State
from dynamo_tasks.store.ledger.fields import Field
from dynamo_tasks.store.redis.containment import MALFORMED, is_wrong_type, pass_over
from dynamo_tasks.store.redis.refusals import refusal
from dynamo_tasks.store.redis.server import Store
from dynamo_tasks.store.redis.wire import Reply, Wire
from dynamo_tasks.store.streams.at_rest import decode_row
from dynamo_tasks.store.streams.subscription import Subscription

__all__ = ["Pages"]

FIRST_PAGE, LAST_PAGE = 64, 512
"""Events per XRANGE: of a reader's first page, and what that grows to while events are small."""
PAGE_BYTES = 1 << 20
"""Bytes that a page should not exceed by much."""
_AT_ONCE = 128
"""Readers per pipeline."""
_STATES = {state.value.encode() for state in State}
_TERMINAL = {state.value.encode() for state in TERMINAL}


class Pages:
    """Reads the events of the streams after each reader's last one."""

    def __init__(self, store: Store):
        self._store = store
        self._read = metrics.counter("reader_events_total", source="xrange")

    async def read(
        self, wire: Wire, subs: list[Subscription], clock: Callable[[], float]
    ) -> list[Subscription]:
        """Feed the readers from their streams; returns those that have all that there is.

        Raises:
            ServerUnavailableError: the connection was lost; what was read is applied.
            ReplyError: Redis refused to read.
        """
        done: list[Subscription] = []
        for start in range(0, len(subs), _AT_ONCE):
            hungry = [(sub, FIRST_PAGE) for sub in subs[start : start + _AT_ONCE]]
            while hungry:
                hungry = await self._round(wire, hungry, clock, done)
        return done

    async def _round(
        self,
        wire: Wire,
        hungry: list[tuple[Subscription, int]],
        clock: Callable[[], float],
        done: list[Subscription],
    ) -> list[tuple[Subscription, int]]:
        """One page for each; returns who needs another one, and how large."""
        commands: list[list[Any]] = []
        for sub, count in hungry:
            keys = self._store.keys(sub.namespace)
            # The record first: had it ended by then, nothing can be missing from the page that is read after it.
            commands.append(["HMGET", keys.record(sub.request_id), Field.STATE, Field.END_ID])
            commands.append(
                ["XRANGE", keys.stream(sub.request_id), f"({sub.cursor.last}", "+", "COUNT", count]
            )
        replies = await wire.pipeline(commands)
        again: list[tuple[Subscription, int]] = []
        for (sub, count), record, page in zip(hungry, replies[::2], replies[1::2], strict=True):
            for reply in (record, page):
                if isinstance(reply, Exception) and not is_wrong_type(refused := refusal(str(reply))):
                    raise refused
            try:
                self._take(sub, record, page, clock())
            except MALFORMED as exc:
                pass_over("log", sub.request_id, exc)
                sub.fail(ProtocolError(f"the stream of request {sub.request_id} cannot be read"))
            except DynamoError as exc:  # its stream cannot be read; the other readers' can
                sub.fail(exc)
            if isinstance(page, Exception) or len(page) < count:
                done.append(sub)
            elif sub.hungry:
                again.append((sub, _next_count(page)))
        return again

    def _take(self, sub: Subscription, record: list[bytes | None], page: Reply, now: float) -> None:
        if page:
            self._read.inc(len(page))
            sub.fill([decode_row(row) for row in page], now)
            return
        state, end = record
        if state is None:
            sub.missing(now)
        elif state not in _STATES:
            raise ProtocolError(
                f"the record of request {sub.request_id} cannot be read: it has no valid state"
            )
        elif state not in _TERMINAL:
            sub.checked(now)
        elif end is not None and EventId.parse(end.decode()) <= sub.cursor.last:
            # It went on from a point below this reader, with a clock that was behind too.
            sub.diverged()
        else:
            sub.fail(StreamExpiredError(f"the stream of request {sub.request_id} is past its retention"))


def _next_count(page: list[Any]) -> int:
    """Size of the next page, from what this one weighed."""
    weight = sum(len(row[1][1]) for row in page) / len(page)
    return max(1, min(LAST_PAGE, int(PAGE_BYTES / (weight + 1))))
