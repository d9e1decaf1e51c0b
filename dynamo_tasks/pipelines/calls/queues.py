"""Queues between threads: descriptors of request and response queues, and the bounded channel of records."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

__all__ = [
    "ChannelClosed",
    "Kept",
    "LocalQueueDescriptor",
    "QueueDescriptor",
    "RecordChannel",
    "RequestQueue",
]

T = TypeVar("T")


class RequestQueue(Protocol):
    """The destination of requests for a service."""

    def put(self, item: Any) -> None:
        """Take a request; never blocks."""


class QueueDescriptor(Protocol):
    """Names a queue; contexts carry it, and neither tasks nor managers make queues of their own.

    Attributes:
        name: Of the queue.
        kind: ``local``, ``celery`` or ``ray``.
    """

    name: str
    kind: str

    def get_queue(self) -> RequestQueue:
        """The queue; the same one at each call."""


class LocalQueueDescriptor:
    """A queue within this process."""

    kind = "local"

    def __init__(self, name: str):
        self.name = name
        self._queue: SimpleQueue[Any] = SimpleQueue()

    def get_queue(self) -> SimpleQueue[Any]:
        """The queue."""
        return self._queue

    def __repr__(self) -> str:
        return f"<LocalQueueDescriptor {self.name}>"


class ChannelClosed(Exception):  # noqa: N818 - a state, not an error
    """The job is being torn down."""


class RecordChannel(Generic[T]):
    """A bounded queue with several producers, one consumer and an end.

    ``put`` waits while it is full: that is the backpressure. ``take`` hands over all that waits at once, so that
    a busy pipeline wakes up its threads once per batch and not once per record.

    Args:
        size: Most items that wait.
        producers: How many of them must be ``done`` before the end.
    """

    def __init__(self, size: int, producers: int = 1):
        self._size = size
        self._producers = producers
        self._items: deque[T] = deque()
        self._closed = False
        self._lock = threading.Lock()
        self._filled = threading.Condition(self._lock)
        self._emptied = threading.Condition(self._lock)

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> None:
        """Append; waits for room.

        Raises:
            ChannelClosed: it was closed.
        """
        with self._lock:
            while len(self._items) >= self._size and not self._closed:
                self._emptied.wait()
            if self._closed:
                raise ChannelClosed
            self._items.append(item)
            self._filled.notify()

    def offer(self, item: T) -> bool:
        """Append if there is room; returns whether there was.

        Raises:
            ChannelClosed: it was closed.
        """
        with self._lock:
            if self._closed:
                raise ChannelClosed
            if len(self._items) >= self._size:
                return False
            self._items.append(item)
            self._filled.notify()
            return True

    def take(self) -> list[T]:
        """Everything that waits; waits for the first. ``[]`` once all producers are done.

        Raises:
            ChannelClosed: it was closed.
        """
        with self._lock:
            while not self._items and self._producers and not self._closed:
                self._filled.wait()
            if self._closed:
                raise ChannelClosed
            items = list(self._items)
            self._items.clear()
            self._emptied.notify_all()
            return items

    def take_nowait(self) -> tuple[list[T], bool]:
        """Everything that waits, and whether more can come."""
        with self._lock:
            items = list(self._items)
            self._items.clear()
            self._emptied.notify_all()
            return items, bool(self._producers) and not self._closed

    def pause(self, seconds: float) -> None:
        """Let a producer sleep, until it is closed at the latest.

        Raises:
            ChannelClosed: it was closed.
        """
        with self._lock:
            if not self._closed:
                self._emptied.wait(seconds)
            if self._closed:
                raise ChannelClosed

    def done(self) -> None:
        """Note that a producer has put its last item."""
        with self._lock:
            self._producers -= 1
            self._filled.notify()

    def close(self) -> None:
        """Release everybody who waits; what is in it is dropped."""
        with self._lock:
            self._closed = True
            self._items.clear()
            self._filled.notify_all()
            self._emptied.notify_all()

    def __iter__(self) -> Iterator[T]:
        while items := self.take():
            yield from items


class Kept(Generic[T]):
    """A list that keeps what is put into it: each reader gets every item, from the first on."""

    def __init__(self) -> None:
        self._items: list[T] = []
        self._over = False
        self._filled = threading.Condition()

    def put(self, item: T) -> None:
        """Append; never waits."""
        with self._filled:
            self._items.append(item)
            self._filled.notify_all()

    def done(self) -> None:
        """Note that the last item was put."""
        with self._filled:
            self._over = True
            self._filled.notify_all()

    def __iter__(self) -> Iterator[T]:
        seen = 0
        while items := self._behind(seen):
            yield from items
            seen += len(items)

    def _behind(self, seen: int) -> list[T]:
        """Return the items after the first ``seen`` ones; waits for one; ``[]`` at the end."""
        with self._filled:
            while len(self._items) == seen and not self._over:
                self._filled.wait()
            return self._items[seen:]
