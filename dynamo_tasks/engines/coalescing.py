"""Coalescing: the intervals at which the streams of one engine are read, so that many of them cost little.

An engine that makes a token of every stream each 5 ms gives more pieces than anybody reads, and each piece costs the
worker, Redis, the frontend and the client some 100 µs together. So the more streams there are, the longer each
rests between two pieces; what the engine makes meanwhile comes with the next one. Bounds:

- one stream rests for 1 ms per stream that the engine has, so all pieces together take a tenth of a core, up to 40
  streams;
- never less than 5 ms, even alone: more than 200 pieces per second are of no use to anybody;
- never more than 40 ms: 25 pieces per second and stream. Models whose steps take longer give every token at once;
- a stream that nobody reads rests for 250 ms, as often as its stream is written. Once a reader comes, that ends.

An end does not wait: it ends the rest of its stream.

The engine itself is looked at not more often than each 10 ms where it has 64 streams or more, each 5 ms where it has
40, and at once up to 16 (:func:`gap`): looking costs as much as all streams of a step together. That is shorter than a
step of most models; where it is not, an end and a first token come later by half of it on average.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

__all__ = ["CoalescingWindow", "gap"]

_EACH_S = 0.001
_MOST_S = 0.04
_LEAST_S = 0.005
_UNREAD_S = 0.25
_FEW, _MANY, _GAP_S = 16, 64, 0.01


class _Rest(NamedTuple):
    future: asyncio.Future[None]
    is_read: Callable[[], bool] | None
    until: float


def gap(streams: int) -> float:
    """Seconds that lie between two looks at the engine, at the least.

    Args:
        streams: How many it has.
    """
    return _GAP_S * max(0, min(streams, _MANY) - _FEW) / (_MANY - _FEW)


class CoalescingWindow:
    """Lets all streams of one engine rest together; belongs to one event loop."""

    def __init__(self) -> None:
        self._resting: list[_Rest] = []

    def rest(self, streams: int, is_read: Callable[[], bool] | None = None) -> asyncio.Future[None]:
        """A rest that begins now: done when it is time for the next piece.

        Args:
            streams: How many the engine has.
            is_read: Whether somebody reads this one now; by default somebody does.
        """
        loop = asyncio.get_running_loop()
        unread = is_read is not None and not is_read()
        if not self._resting:
            interval = min(_MOST_S, max(_LEAST_S, streams * _EACH_S))
            loop.call_later(interval, self._wake, interval)
        # Each has a future of its own, so that one may be woken; an Event would take a lock for each besides.
        future = loop.create_future()
        self._resting.append(_Rest(future, is_read, loop.time() + _UNREAD_S if unread else 0.0))
        return future

    def _wake(self, interval: float) -> None:
        loop = asyncio.get_running_loop()
        resting, self._resting = self._resting, []
        now = loop.time()
        for rest in resting:
            if rest.future.done():
                continue
            if now < rest.until and rest.is_read is not None and not rest.is_read():
                self._resting.append(rest)
            else:
                rest.future.set_result(None)
        if self._resting:
            loop.call_later(interval, self._wake, interval)
