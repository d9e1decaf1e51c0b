"""One reader of one stream, as the demultiplexer feeds it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from dynamo_tasks.errors import DynamoError, StreamDivergedError
from dynamo_tasks.protocol.cursor import Cursor, Verdict
from dynamo_tasks.protocol.events import Event, EventId

__all__ = ["Subscription"]

BUFFER = 1024
"""Events that a reader may leave unread; beyond that it falls back to reading the log."""
FIRST_CHECK, LAST_CHECK = 1.0, 5.0
"""Seconds of silence after which the log is read, and what that backs off to."""


class Subscription:
    """The events of one request, in order, each once.

    Not created by hand: see :class:`~dynamo_tasks.store.reader.StreamReader`.
    """

    def __init__(
        self,
        namespace: str,
        request_id: str,
        after: EventId,
        *,
        on_gap: Callable[[Subscription], None],
        on_close: Callable[[Subscription], None],
        now: float,
    ):
        self.namespace = namespace
        self.request_id = request_id
        self.cursor = Cursor(after)
        self.render = b""
        self.closed = False
        self.check_at = now + FIRST_CHECK
        self._interval = FIRST_CHECK
        self._buffer: deque[Event] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._error: DynamoError | None = None
        self._lagging = False
        self._on_gap = on_gap
        self._on_close = on_close

    @property
    def ended(self) -> bool:
        """Whether the end event has been applied (it may still be unread)."""
        return self.cursor.ended

    def feed(self, event: Event, now: float) -> None:
        """Take a pushed event."""
        if len(self._buffer) >= BUFFER:
            self._lagging = True
            return
        verdict = self.cursor.pushed(event)
        if verdict is Verdict.APPLY:
            self._keep(event, now)
        elif verdict is Verdict.GAP:
            self._on_gap(self)

    def fill(self, events: list[Event], now: float) -> None:
        """Take events that were read from the log, in order."""
        for event in events:
            if len(self._buffer) >= BUFFER:
                self._lagging = True
                return
            verdict = self.cursor.logged(event)
            if verdict is Verdict.APPLY:
                self._keep(event, now)
            elif verdict is Verdict.DIVERGED:
                self.fail(StreamDivergedError())
                return

    def _keep(self, event: Event, now: float) -> None:
        self._buffer.append(event)
        self._interval = FIRST_CHECK
        self.check_at = now + FIRST_CHECK
        self._wake()

    def checked(self, now: float) -> None:
        """The log was read and had nothing new: back off."""
        self._interval = min(self._interval * 2, LAST_CHECK)
        self.check_at = now + self._interval

    def fail(self, error: DynamoError) -> None:
        """End the stream with an error, behind what is buffered."""
        if self._error is None:
            self._error = error
            self._wake()

    @property
    def hungry(self) -> bool:
        """Whether events from the log can be taken."""
        return not self.closed and not self.ended and self._error is None and len(self._buffer) < BUFFER

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next(self) -> list[Event]:
        """The events that are there, at least one; an empty list once the end event was handed out.

        Raises:
            StreamDivergedError: this reader has seen events that the server forgot for good.
            StreamExpiredError: the log is gone.
            RequestNotFoundError: the server forgot the request.
        """
        while not self._buffer:
            if self._error is not None:
                raise self._error
            if self.closed or self.ended:
                return []
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        events = list(self._buffer)
        self._buffer.clear()
        if self._lagging:
            self._lagging = False
            self._on_gap(self)
        return events

    async def __aiter__(self) -> AsyncIterator[Event]:
        while events := await self.next():
            for event in events:
                yield event

    def close(self) -> None:
        """This reader leaves; idempotent."""
        if not self.closed:
            self.closed = True
            self._wake()
            self._on_close(self)
