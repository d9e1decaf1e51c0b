"""One reader of one stream, as the demultiplexer feeds it; and its position, which says what may come next.

The position (:class:`Cursor`) is pure: no I/O, no clock. Rules:

* an event *follows* the last applied one if it has the same epoch and the next seq, or if it is the first one
  of a later epoch (a claim, or an end by somebody who is not the owner) and names the last applied id;
* an id that is not above the last applied one is old: ignored;
* a pushed event whose epoch is below the last claim that was seen is ignored: a push can carry an event
  that the stream has refused;
* any other pushed event is a gap: read the stream from the last applied id;
* the stream itself is read in order, so what does not follow there shows that Redis forgot events which
  this reader has seen: diverged.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from enum import Enum

from dynamo_tasks.errors import DynamoError, ProtocolError, RequestNotFoundError, StreamDivergedError
from dynamo_tasks.observe import metrics
from dynamo_tasks.observe.log import event as log_event
from dynamo_tasks.protocol.events import ZERO, Claim, End, Event, EventId, Kind

__all__ = ["Cursor", "Subscription", "Verdict"]

BUFFER, BUFFER_BYTES = 1024, 4 << 20
"""Events, and their bytes, that a reader may leave unread; beyond that it falls back to reading the stream."""
HELD = 256
"""Pushes that are kept while the stream is being read; if there are more, it is read once more."""
FIRST_CHECK, LAST_CHECK = 1.0, 5.0
"""Seconds of silence after which the stream is read, and what that backs off to."""
GONE_AFTER = 3.0
"""Seconds for which a record must be missing: a server that has come back is sent it again by the owner."""


class Verdict(Enum):
    """The judgement of an event."""

    APPLY = "apply"
    IGNORE = "ignore"
    GAP = "gap"
    DIVERGED = "diverged"


class Cursor:
    """Position of one reader.

    Args:
        last: The last event that the reader has; ``0-0`` for none.
    """

    __slots__ = ("claimed", "ended", "last")

    def __init__(self, last: EventId = ZERO):
        self.last = last
        self.claimed = last.epoch
        """The highest epoch that is known to have begun."""
        self.ended = False

    def pushed(self, event: Event) -> Verdict:
        """Judge an event that was pushed; pushes may be lost, repeated, or refused by the stream afterwards."""
        epoch, seq = event.id
        last = self.last
        # Below the claimed epoch: an attempt that has lost the request still pushes what the stream refuses.
        if self.ended or event.id <= last or epoch < self.claimed:
            return Verdict.IGNORE
        if epoch == last.epoch:
            follows = seq == last.seq + 1
        else:
            follows = _predecessor(event) == last
            if seq == 0:  # behind a gap, too: what older epochs push counts no more
                self.claimed = epoch
        return self._apply(event) if follows else Verdict.GAP

    def note(self, event: Event) -> None:
        """Note a pushed event that is not judged now: if it begins an epoch, older ones are over."""
        if event.id.seq == 0 and event.id.epoch > self.claimed:
            self.claimed = event.id.epoch

    def stored(self, event: Event) -> Verdict:
        """Judge an event that was read from the stream, in order."""
        last = self.last
        if self.ended or event.id <= last:
            return Verdict.IGNORE
        same = event.id.epoch == last.epoch
        follows = event.id.seq == last.seq + 1 if same else _predecessor(event) == last
        # The stream leaves nothing out: this reader has seen what Redis forgot.
        return self._apply(event) if follows else Verdict.DIVERGED

    def _apply(self, event: Event) -> Verdict:
        self.last = event.id
        if event.id.epoch > self.claimed:
            self.claimed = event.id.epoch
        self.ended = event.kind == Kind.END
        return Verdict.APPLY


def _predecessor(event: Event) -> EventId | None:
    """The id that the first event of an epoch names; ``None`` for an event that can't begin one."""
    if event.id.seq != 0:
        return None
    if event.kind == Kind.CLAIM:
        return Claim.decode(event.data).previous
    if event.kind == Kind.END:
        previous = End.decode(event.data).previous
        return EventId.parse(previous) if previous else None
    return None


class Subscription:
    """The events of one request, in order, each once, for one consumer.

    It is *behind* while it joins, after a gap, after a reconnect, and while its buffer is full. What is pushed
    then waits until the stream has been read, since only the stream shows which pushes count.

    Not created by hand: see :class:`~dynamo_tasks.store.streams.reader.StreamReader`.
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
        behind: bool = True,
    ):
        self.namespace = namespace
        self.request_id = request_id
        self.cursor = Cursor(after)
        self.render = b""
        self.closed = False
        self.behind = behind
        self.check_at = now + FIRST_CHECK
        self._interval = FIRST_CHECK
        self._buffer: deque[Event] = deque()
        self._size = 0
        self._held: deque[Event] = deque()
        self._overflow = False
        self.lagging = False
        """``True`` from a full buffer to the next :meth:`take`: what was pushed meanwhile is in the stream."""
        self._slow = False
        self._missing_since: float | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._error: DynamoError | None = None
        self._on_gap = on_gap
        self._on_close = on_close

    @property
    def ended(self) -> bool:
        """``True`` once the end event has been applied (it may still be unread)."""
        return self.cursor.ended

    @property
    def saw_end(self) -> bool:
        """``True`` once the end event has been handed out."""
        return self.cursor.ended and not self._buffer

    @property
    def _full(self) -> bool:
        return len(self._buffer) >= BUFFER or self._size >= BUFFER_BYTES

    def feed(self, event: Event, now: float) -> None:
        """Take a pushed event."""
        if self.behind:
            self._hold(event)
            return
        # Not buffered without bound: it is in the stream, which is read once there is room.
        if self._full:
            self._fall_back()
            self._hold(event)
            return
        try:
            verdict = self.cursor.pushed(event)
        except ProtocolError:  # anybody may publish anything: the stream has what was meant
            verdict = Verdict.GAP
        if verdict is Verdict.APPLY:
            self._keep(event, now)
        elif verdict is Verdict.GAP:
            self.behind = True
            self._hold(event)
            self._on_gap(self)

    def _fall_back(self) -> None:
        """The consumer does not keep up with what is pushed."""
        self.behind = self.lagging = True
        if not self._slow:
            self._slow = True
            metrics.counter("reader_slow_total").inc()

    def _hold(self, event: Event) -> None:
        if self.lagging or len(self._held) >= HELD:
            # The stream has it. But that an epoch has begun must be known: pushes of older ones count no more.
            self._overflow = True
            self.cursor.note(event)
        else:
            self._held.append(event)

    def fill(self, events: list[Event], now: float) -> None:
        """Take events that were read from the stream, in order."""
        for event in events:
            if self._full:
                self.behind = self.lagging = True
                return
            verdict = self.cursor.stored(event)
            if verdict is Verdict.APPLY:
                self._keep(event, now)
            elif verdict is Verdict.DIVERGED:
                self.diverged()
                return

    def caught_up(self, now: float) -> None:
        """The stream was read to its end, and everything that is pushed from here on arrives: go on with pushes."""
        if not self.behind or self.lagging:
            return
        if self._overflow:  # some pushes were let go while it was read: once more, now with room to hold them
            self._overflow = False
            self._held.clear()
            self._on_gap(self)
            return
        self.behind = False
        held, self._held = self._held, deque()
        for event in held:
            self.feed(event, now)

    def lose(self) -> None:
        """Pushes may have been lost: the connection is a new one."""
        self.behind = True
        self._overflow = False
        self._held.clear()

    def _keep(self, event: Event, now: float) -> None:
        self._buffer.append(event)
        self._size += len(event.data)
        self._interval = FIRST_CHECK
        self.check_at = now + FIRST_CHECK
        self._missing_since = None
        self._wake()

    def checked(self, now: float) -> None:
        """The stream was read and had nothing new: back off."""
        self._missing_since = None
        self._interval = min(self._interval * 2, LAST_CHECK)
        self.check_at = now + self._interval

    def missing(self, now: float) -> None:
        """The record is not there."""
        if self._missing_since is None:
            self._missing_since = now  # its owner writes it anew, if a crash of Redis has cost it
        elif now - self._missing_since >= GONE_AFTER:
            self.fail(RequestNotFoundError(f"Redis forgot request {self.request_id}"))
        self.check_at = now + FIRST_CHECK

    def diverged(self) -> None:
        """This reader is ahead of the stream, and the stream went on without it."""
        metrics.counter("reader_diverged_total").inc()
        log_event("stream.diverged", request_id=self.request_id, applied=str(self.cursor.last))
        self.fail(StreamDivergedError())

    def fail(self, error: DynamoError) -> None:
        """End the stream with an error, after what is buffered."""
        if self._error is None:
            self._error = error
            self._wake()

    @property
    def failed(self) -> DynamoError | None:
        """The error that ends the stream, after what is buffered; ``None`` where its end event does."""
        return self._error

    @property
    def hungry(self) -> bool:
        """``True`` while events from the stream can be taken."""
        return not self.closed and not self.ended and self._error is None and not self._full

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next(self) -> list[Event]:
        """The events that are there, at least one; an empty list once the end event was handed out.

        Raises:
            StreamDivergedError: this reader has seen events that Redis forgot for good.
            StreamExpiredError: the stream is gone.
            RequestNotFoundError: Redis forgot the request.
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
        return self.take()

    def take(self) -> list[Event]:
        """The events that are there now."""
        events = list(self._buffer)
        self._buffer.clear()
        self._size = 0
        # There is room again. What was let go meanwhile is read from the stream, not waited for.
        if self.lagging:
            self._overflow = False
            self._on_gap(self)
            self.lagging = False
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
