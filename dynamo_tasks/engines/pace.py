"""How often the streams of one engine are looked at, so that many of them cost little.

An engine that makes a token of every stream each 5 ms gives more pieces than anybody reads, and each piece costs the
worker, the server, the frontend and the client some 100 µs together. So the more streams there are, the longer each
rests between two pieces; what the engine makes meanwhile comes with the next one. Two bounds:

- one stream rests for 1 ms per stream that the engine has, so all pieces together take a tenth of a core, up to 40
  streams; a few never rest, since a step takes longer;
- never more than 40 ms: 25 pieces per second and stream. Models whose steps take longer give every token at once.

An end does not wait: it ends the rest of its stream.
"""

from __future__ import annotations

import asyncio

__all__ = ["Pace"]

_EACH_S = 0.001
_MOST_S = 0.04
_LEAST_S = 0.004
"""What is shorter than a step of any model is no rest."""


class Pace:
    """Lets all streams of one engine rest together; belongs to one event loop."""

    def __init__(self) -> None:
        self._resting: list[asyncio.Future[None]] = []

    def rest(self, streams: int) -> asyncio.Future[None] | None:
        """A rest that begins now: done when it is time for the next piece; ``None`` with so few streams.

        Args:
            streams: How many the engine has.
        """
        interval = min(_MOST_S, streams * _EACH_S)
        if interval < _LEAST_S:
            return None
        loop = asyncio.get_running_loop()
        if not self._resting:
            loop.call_later(interval, self._wake)
        # Each has a future of its own, so that one may be woken; an Event would take a lock for each besides.
        future = loop.create_future()
        self._resting.append(future)
        return future

    def _wake(self) -> None:
        woken, self._resting = self._resting, []
        for future in woken:
            if not future.done():
                future.set_result(None)
