"""One subscriber of a subject's events: reads the stream at its own pace."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import msgspec

from dynamo_tasks.errors import ServerUnavailableError
from dynamo_tasks.observe.log import event
from dynamo_tasks.protocol.events import UNREADABLE
from dynamo_tasks.protocol.names import Subject
from dynamo_tasks.store.redis.containment import pass_over
from dynamo_tasks.store.redis.pubsub import Channels
from dynamo_tasks.store.redis.server import Store

__all__ = ["KEPT_MS", "RETRY", "EventSubscription", "TopicEvent"]

KEPT_MS = 24 * 3600 * 1000
"""Time after the last event of a subject after which its stream goes."""
RETRY = 0.2
"""Seconds until a server that cannot be reached is asked again."""
_PAGE = 256
_CHECK_EVERY = 1.0


@dataclass(frozen=True, slots=True)
class TopicEvent:
    """One event."""

    id: str
    """``<ms>-<seq>`` by Redis's clock; ``since=event.id`` goes on after it."""
    subject: str
    payload: Any

    def data(self) -> Any:
        """Return the payload that was published."""
        return self.payload


class EventSubscription:
    """Events in their order: ``async for event in subscription``.

    It begins with the first ``anext``, or earlier with ``await subscription`` or ``async with``. At least once:
    who crashes after an event and comes back with the id of the one before gets it again.
    """

    def __init__(self, store: Store, channels: Channels, subject: Subject, start: str):
        self.subject = str(subject)
        self._channels = channels
        self._commands = store.commands
        self._start = start
        keys = store.keys(subject.namespace)
        self._key = keys.events(self.subject)
        self._channel = keys.events_channel(self.subject)
        self._pending: deque[TopicEvent] = deque()
        self._news = asyncio.Event()
        self._begun = self._closed = False

    def _wake(self, payload: bytes) -> None:
        self._news.set()

    async def start(self) -> Self:
        """Begin: what is published after this returns will be seen."""
        if not self._begun:
            self._begun = True
            # First the wake-ups, then the place: what is published between the two is announced, and read.
            await self._channels.listen(self._channel, self._wake)
            await self._find_start()
        return self

    async def _find_start(self) -> None:
        if not self._start:
            last = await self._commands.execute("XREVRANGE", self._key, "+", "-", "COUNT", 1)
            self._start = f"({last[0][0].decode()}" if last else "0-0"

    def __await__(self) -> Generator[Any, None, Self]:
        return self.start().__await__()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TopicEvent:
        await self.start()
        while not self._pending:
            if self._closed:
                raise StopAsyncIteration
            # Before the read: what comes after it wakes us.
            self._news.clear()
            await self._read()
            if not self._pending:
                await self._wait()
        found = self._pending.popleft()
        self._start = f"({found.id}"
        return found

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(_CHECK_EVERY):
                await self._news.wait()
        except TimeoutError:
            return

    async def _read(self) -> None:
        commands = self._commands
        try:
            rows = await commands.execute("XRANGE", self._key, self._start, "+", "COUNT", _PAGE)
            if rows and self._start.startswith("("):
                seen = self._start[1:]
                # The last event seen was trimmed: so may be some after it.
                if not await commands.execute("XRANGE", self._key, seen, seen):
                    event("events.missed", subject=self.subject, after=seen, next=rows[0][0].decode())
        except ServerUnavailableError:
            await asyncio.sleep(RETRY)
            return
        self._take(rows)

    def _take(self, rows: list[Any]) -> None:
        for row_id, fields in rows:
            name = row_id.decode()
            try:
                self._pending.append(TopicEvent(name, self.subject, msgspec.json.decode(fields[1])))
            except UNREADABLE as exc:
                pass_over("pubsub", f"{self.subject} {name}", exc)
                self._pass_over(name)

    def _pass_over(self, event_id: str) -> None:
        """An event that nobody can read: it is not to be read again."""
        if not self._pending:
            self._start = f"({event_id}"

    async def aclose(self) -> None:
        """End; a waiting iteration ends too."""
        self._closed = True
        self._news.set()
        self._channels.forget(self._channel, self._wake)
