"""Streams whose flush may wait: what gathers until then goes in one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from dynamo_tasks.store.streams.open_stream import OpenStream

__all__ = ["DelayedStreams"]


class DelayedStreams:
    """Streams that are flushed after a while, all by one timer.

    Args:
        loop: That the timer runs on.
        seconds: Until the timer of the first one that was added; those that come later go with it.
        flush: Called with those that are left by then, if any are.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, flush: Callable[[Iterable[OpenStream]], None]
    ):
        self._loop = loop
        self._seconds = seconds
        self._flush = flush
        self._streams: dict[OpenStream, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, stream: OpenStream) -> None:
        """Let it wait."""
        self._streams[stream] = None
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._due)

    def discard(self, stream: OpenStream) -> None:
        """Let it wait no more: it is flushed already, or over."""
        self._streams.pop(stream, None)

    def close(self) -> None:
        """Flush nothing any more."""
        if self._timer is not None:
            self._timer.cancel()

    def clear(self) -> None:
        """Let none of them wait."""
        self._streams.clear()

    def _due(self) -> None:
        self._timer = None
        streams, self._streams = self._streams, {}
        if streams:
            self._flush(streams)
