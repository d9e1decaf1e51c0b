"""Events of components and namespaces: bounded logs that any number of subscribers read, each at its own pace.

An event is an entry of a Redis Stream; its id says where to go on. Publishing appends and wakes the subscribers
up; they read the log, so a lost wake-up is only a delay, and a slow subscriber costs a publisher nothing. One
that falls behind by more than the log holds goes on with the oldest event, and says so in its own log.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import msgspec

from dynamo_tasks.errors import (
    InvalidEventIdError,
    InvalidRequestError,
    PayloadTooLargeError,
    ServerUnavailableError,
)
from dynamo_tasks.observe.log import event
from dynamo_tasks.protocol.events import UNREADABLE, EventId
from dynamo_tasks.protocol.names import Subject
from dynamo_tasks.store.base import Store
from dynamo_tasks.store.pubsub import Channels

__all__ = ["MAX_PAYLOAD", "Event", "EventLog", "EventSubscription"]

MAX_PAYLOAD = 1 << 20
"""Most bytes of one event."""
KEPT = 10_000
"""Events of a subject that are kept, or a few more: Redis trims whole nodes of a stream."""
KEPT_MS = 24 * 3600 * 1000
"""Time after the last event of a subject after which its log goes."""
_PAGE = 256
_CHECK_EVERY = 1.0
_RETRY = 0.2
_LATEST = 2**53 / 1000


@dataclass(frozen=True, slots=True)
class Event:
    """One event."""

    id: str
    """``<ms>-<seq>`` by the server's clock; ``since=event.id`` goes on behind it."""
    subject: str
    payload: Any

    def data(self) -> Any:
        """What was published."""
        return self.payload


class EventLog:
    """Publishes and reads the events of one server.

    Args:
        store: The server.
        channels: The process's subscriptions.
        kept: Events that are kept per subject, about.
    """

    def __init__(self, store: Store, channels: Channels, *, kept: int = KEPT):
        self.store = store
        self.channels = channels
        self._kept = kept

    async def publish(self, subject: Subject, payload: Any) -> str:
        """Append an event; returns its id.

        Raises:
            InvalidRequestError: the payload is not JSON.
            PayloadTooLargeError: it is larger than 1 MiB.
            ServerUnavailableError: the server cannot be reached.
        """
        data = _encode(payload)
        keys = self.store.keys(subject.namespace)
        key = keys.events(str(subject))
        wire = await self.store.commands.wire(timeout=5.0)
        added, *_ = await wire.pipeline(
            [
                ["XADD", key, "MAXLEN", "~", self._kept, "*", "p", data],
                ["PEXPIRE", key, KEPT_MS],
                ["SADD", self.store.namespaces_key, subject.namespace],
                ["PUBLISH", keys.events_channel(str(subject)), ""],
            ]
        )
        if isinstance(added, Exception):
            raise ServerUnavailableError(f"the event was not taken: {added}")
        return str(added.decode())

    def subscribe(self, subject: Subject, since: str | float | None = None) -> EventSubscription:
        """Read events of a subject; see :class:`EventSubscription`.

        Args:
            subject: Whose.
            since: Id of the last event seen, or Unix time in seconds; only new events by default.

        Raises:
            InvalidEventIdError: ``since`` is neither.
        """
        return EventSubscription(self, subject, _position(since))


def _encode(payload: Any) -> bytes:
    try:
        data = msgspec.json.encode(payload)
    except (TypeError, ValueError, OverflowError) as exc:
        raise InvalidRequestError(f"the payload of an event must be JSON: {exc}", param="payload") from None
    if len(data) > MAX_PAYLOAD:
        raise PayloadTooLargeError(f"the event has {len(data)} bytes; at most {MAX_PAYLOAD} are allowed")
    return data


def _position(since: str | float | None) -> str:
    """Where XRANGE begins: ``(id`` behind an event, an id at a time, '' at the end of the log."""
    if since is None:
        return ""
    if isinstance(since, int | float):
        if not math.isfinite(since) or since > _LATEST:
            raise InvalidEventIdError(f"{since!r} is no Unix time in seconds")
        return f"{max(0, int(since * 1000))}-0"
    try:
        return f"({EventId.parse(since)}"
    except InvalidEventIdError:
        text = f"{since[:100]!r} is no event id; expected <ms>-<seq>, or a Unix time as a number"
        raise InvalidEventIdError(text) from None


class EventSubscription:
    """Events in their order: ``async for event in subscription``.

    It begins with the first ``anext``, or earlier with ``await subscription`` or ``async with``. At least once:
    who crashes after an event and comes back with the id of the one before gets it again.
    """

    def __init__(self, log: EventLog, subject: Subject, start: str):
        self.subject = str(subject)
        self._log = log
        self._start = start
        keys = log.store.keys(subject.namespace)
        self._key = keys.events(self.subject)
        self._channel = keys.events_channel(self.subject)
        self._pending: deque[Event] = deque()
        self._news = asyncio.Event()
        self._begun = self._closed = False

    def _wake(self, payload: bytes) -> None:
        self._news.set()

    async def start(self) -> Self:
        """Begin: what is published after this returns will be seen."""
        if not self._begun:
            self._begun = True
            await self._log.channels.listen(self._channel, self._wake)
            if not self._start:
                last = await self._log.store.commands.execute("XREVRANGE", self._key, "+", "-", "COUNT", 1)
                self._start = f"({last[0][0].decode()}" if last else "0-0"
        return self

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

    async def __anext__(self) -> Event:
        await self.start()
        while not self._pending:
            if self._closed:
                raise StopAsyncIteration
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
        commands = self._log.store.commands
        try:
            rows = await commands.execute("XRANGE", self._key, self._start, "+", "COUNT", _PAGE)
            if rows and self._start.startswith("("):
                seen = self._start[1:]
                if not await commands.execute("XRANGE", self._key, seen, seen):
                    event("events.missed", subject=self.subject, after=seen, next=rows[0][0].decode())
        except ServerUnavailableError:
            await asyncio.sleep(_RETRY)
            return
        for row_id, fields in rows:
            self._take(row_id.decode(), fields[1])

    def _take(self, row_id: str, data: bytes) -> None:
        try:
            self._pending.append(Event(row_id, self.subject, msgspec.json.decode(data)))
        except UNREADABLE as exc:
            event("store.unreadable", name=f"{self.subject} {row_id}", error=str(exc))
            if not self._pending:
                self._start = f"({row_id}"  # not to be read again

    async def aclose(self) -> None:
        """End; a waiting iteration ends too."""
        self._closed = True
        self._news.set()
        self._log.channels.forget(self._channel, self._wake)
