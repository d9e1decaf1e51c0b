"""The write side of one request's stream: what is pending, frozen, acknowledged.

Life of an event: values gather in ``pending``; a flush freezes them into an entry (id and bytes never
change again); Redis's reply acknowledges it. Acknowledged entries are kept for ``KEEP`` seconds,
so that a server that forgets its last second can be sent it again.

Invariants:

1. ids of one stream are ``epoch-1, epoch-2, …`` without a gap (``epoch-0`` is the claim);
2. an id once frozen is only ever sent with the same bytes;
3. ``frozen`` holds, in order, exactly the ids above the last acknowledged one;
4. after :meth:`OpenStream.die` nothing is sent any more.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from dynamo_tasks.errors import DynamoError, StreamTooLargeError
from dynamo_tasks.protocol.account import used_by
from dynamo_tasks.protocol.events import ZERO, End, EventId, Kind
from dynamo_tasks.protocol.tokens import TokenDelta, encode_deltas, merge_delta
from dynamo_tasks.store.ledger.ledger import Attempt, KeptResult

__all__ = ["DEFAULT_CAP", "ENTRY_BYTES", "Entry", "Finish", "OpenStream"]

KEEP = 3.0
"""Seconds for which acknowledged entries are kept in memory."""
DEFAULT_CAP = 64 << 20
"""Bytes that one stream may hold."""
ENTRY_BYTES = 40
"""Approximate bytes that an entry takes beside its data."""
CONGESTED = 1 << 20
"""Bytes that may wait for Redis before the producer is held back."""
_TOKEN_BYTES = 16
"""Approximate bytes of a token delta that is not encoded yet."""

_TOKENS, _VALUES = Kind.TOKENS.value, Kind.VALUES.value
_encode = msgspec.msgpack.Encoder().encode


class Entry(NamedTuple):
    """A frozen event."""

    seq: int
    kind: str
    data: bytes


class Finish(NamedTuple):
    """The end that a request gets once all of its events are in the stream; its fields are encoded already."""

    state: str
    end: bytes
    error: bytes
    result: bytes
    settled: bool
    kept: KeptResult | None
    used: str
    ttft: int
    done: asyncio.Future[str]


class OpenStream:
    """The stream of one attempt, as its owner writes it.

    Args:
        attempt: The claim.
        changed: Called when there is something to flush.
        on_dead: Called once, with the reason, when the attempt may not write any more.
        cap: Bytes that the stream may hold.
    """

    def __init__(
        self,
        attempt: Attempt,
        *,
        changed: Callable[[OpenStream], None],
        on_dead: Callable[[DynamoError], None],
        cap: int = DEFAULT_CAP,
    ):
        self.attempt = attempt
        self.readers = attempt.readers
        self.frozen: deque[Entry] = deque()
        self.finish_request: Finish | None = None
        self.dead: DynamoError | None = None
        self.suspect = False
        """Redis refused an entry: its state must be examined before the next flush."""
        self.ended: Finish | None = None
        """The end that was acknowledged; kept, since Redis may forget it in a crash or a failover."""
        self.run_id = ""
        """The server process that is known to have the claim."""
        self.told_all = False
        """The last tokens were appended: the end is about to follow."""
        self._opened, self._first_at = time.monotonic(), 0.0
        self._changed = changed
        self._on_dead = on_dead
        self._cap = cap
        self._seq = 0
        self._acked = 0
        self._kept: deque[tuple[float, Entry]] = deque()
        self._pending: list[tuple[str, list[Any]]] = []
        self._bytes = 0
        self._gathered = 0
        self._waiting = 0
        self._room: asyncio.Future[None] | None = None

    def count_earlier(self, size: int) -> None:
        """Earlier attempts have left this many bytes in the stream; they count towards its cap."""
        self._bytes += size

    def append(self, value: Any) -> None:
        """Add a value that the endpoint yielded; it is sent with the next flush.

        Raises:
            DynamoError: the attempt is dead (fenced, or its record is gone).
            StreamTooLargeError: the stream is at its cap.
            TypeError: the value cannot be written as msgpack.
        """
        if self.dead is not None:
            raise self.dead
        if not self._first_at:
            self._first_at = time.monotonic()
        if self._bytes + self._gathered > self._cap:
            raise StreamTooLargeError(f"the stream holds {self._bytes} bytes, its cap is {self._cap}")
        pending = self._pending
        if isinstance(value, TokenDelta):
            self._gathered += _TOKEN_BYTES
            self.told_all = value.usage is not None
            if pending and pending[-1][0] == _TOKENS:
                merge_delta(pending[-1][1], value)
            else:
                group: list[Any] = []
                merge_delta(group, value)
                pending.append((_TOKENS, group))
        else:
            self.told_all = False
            # At once: the endpoint may change it later, and what cannot be written is the fault of this yield.
            encoded = _encode(value)
            self._gathered += len(encoded)
            if pending and pending[-1][0] == _VALUES:
                pending[-1][1].append(encoded)
            else:
                pending.append((_VALUES, [encoded]))
        self._changed(self)

    @property
    def congested(self) -> bool:
        """``True`` while the producer should wait for :meth:`room`."""
        return self._waiting + self._gathered > CONGESTED

    async def room(self) -> None:
        """Wait until Redis has taken what was produced so far."""
        while self.congested and self.dead is None:
            if self._room is None:
                self._room = asyncio.get_running_loop().create_future()
            await self._room
        if self.dead is not None:
            raise self.dead

    def freeze(self) -> None:
        """Turn what is pending into entries.

        Raises:
            TypeError, ValueError, OverflowError: a token delta cannot be written as msgpack.
        """
        for kind, values in self._pending:
            data = encode_deltas(values) if kind == _TOKENS else _array(values)
            self._seq += 1
            self._bytes += len(data) + ENTRY_BYTES
            self._waiting += len(data)
            self.frozen.append(Entry(self._seq, kind, data))
        # From here on an entry keeps its id, however often it is sent: that is how a repetition is told from news.
        self._pending = []
        self._gathered = 0

    @property
    def top(self) -> EventId:
        """Id of the last entry, sent or not."""
        return EventId(self.attempt.epoch, self._seq)

    @property
    def end_id(self) -> EventId:
        """Id that the end event will have."""
        return EventId(self.attempt.epoch, self._seq + 1)

    @property
    def busy(self) -> bool:
        """``True`` while anything is left to send."""
        return bool(self._pending or self.frozen or self.finish_request)

    def acknowledge(self, count: int, now: float) -> None:
        """Redis took the first ``count`` frozen entries."""
        for _ in range(count):
            entry = self.frozen.popleft()
            self._waiting -= len(entry.data)
            self._acked = entry.seq
            self._kept.append((now, entry))
        while self._kept and self._kept[0][0] < now - KEEP:
            self._kept.popleft()
        if self._room is not None and not self.congested:
            self._wake()

    def realign(self, top: EventId, now: float) -> bool:
        """Redis says that ``top`` is its last entry of this stream: send everything above it again.

        Returns:
            Whether that is possible; not where it forgot more than is kept.
        """
        seq = top.seq if top.epoch == self.attempt.epoch else 0
        # A server that was restarted may have forgotten what it had acknowledged: that is sent again.
        lost = [entry for _, entry in self._kept if entry.seq > seq]
        expected = lost[0].seq if lost else (self.frozen[0].seq if self.frozen else self._seq + 1)
        if seq + 1 < expected:  # ids must not skip: readers would wait for what nobody has any more
            return False
        for entry in reversed(lost):
            self._kept.pop()
            self.frozen.appendleft(entry)
            self._waiting += len(entry.data)
        self._acked = min(self._acked, seq)
        taken = sum(1 for entry in self.frozen if entry.seq <= seq)
        self.acknowledge(taken, now)
        self.suspect = False
        return True

    def finish(
        self, end: End, result: bytes, *, settled: bool, kept: KeptResult | None = None
    ) -> asyncio.Future[str]:
        """End the request after its last event; the future gives the script's answer (``OK``, ``FENCED``, …).

        Args:
            end: The last event.
            result: For the record, as JSON.
            settled: Nothing is to be done after the end.
            kept: Celery's result, where it is written together with the end.

        Raises:
            TypeError: the end cannot be written as msgpack.
        """
        done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        if self.dead is not None:
            done.set_exception(self.dead)
            return done
        # Encoded once: after a lost reply the same end is sent, not another one.
        error = msgspec.json.encode(end.error) if end.error else b""
        used = used_by(end) if self.attempt.accounted else ""
        self.finish_request = Finish(
            end.state.value, end.encode(), error, result, settled, kept, used, self._ttft(), done
        )
        self._changed(self)
        return done

    def _ttft(self) -> int:
        """Milliseconds from the request's submit to its first value; -1 where an earlier attempt may have had it."""
        if not self._first_at or self.attempt.previous != ZERO:
            return -1
        return round((self.attempt.waited + self._first_at - self._opened) * 1000)

    def finished(self) -> None:
        """The end is in the stream."""
        self.ended, self.finish_request = self.finish_request, None
        if self.ended is not None and not self.ended.done.done():
            self.ended.done.set_result("OK")

    def reopen(self) -> None:
        """Redis forgot the end: it is written again, with the same bytes. Nobody waits for it any more."""
        if self.ended is not None:
            done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            self.finish_request, self.ended = self.ended._replace(done=done), None
            self._on_dead = lambda reason: None

    def die(self, reason: DynamoError) -> None:
        """Nothing may be written any more; idempotent."""
        if self.dead is not None:
            return
        self.dead = reason
        # Not one more: events of another attempt may follow in the stream by now.
        self._pending, self.frozen = [], deque()
        if self.finish_request is not None and not self.finish_request.done.done():
            self.finish_request.done.set_exception(reason)
            self.finish_request.done.exception()  # retrieved: maybe nobody awaits it
        self.finish_request = None
        self._wake()
        self._on_dead(reason)

    def _wake(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._room = None

    def is_read(self) -> bool:
        """Return whether any client reads it now."""
        return bool(self.readers)

    def set_readers(self, readers: list[str]) -> None:
        """Somebody came or left."""
        self.readers = readers
        # What gathered for nobody waits for a timer, and now for somebody.
        if readers and self.busy:
            self._changed(self)


def _array(parts: list[bytes]) -> bytes:
    """A msgpack array of values that are encoded already."""
    n = len(parts)
    head = bytes([0x90 | n]) if n < 16 else b"\xdc" + n.to_bytes(2) if n < 65536 else b"\xdd" + n.to_bytes(4)
    return head + b"".join(parts)
