"""redis-py's connections on the event loop: in a greenlet of ours, they wait for an answer without holding up the loop.

Celery's consumer, kombu's channels and the result backend ask Redis one thing after the other. Where it is far
away, each of these round trips would stop the streams, and a few in a row lose the lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cache
from typing import Any

from dynamo_tasks.queue.greenlets import await_, on_loop

__all__ = ["yielding"]

_AT_ONCE = 0.001
"""Seconds for which redis-py looks for an answer whose time is over; then it says so in its own way."""


@cache
def yielding(kind: type, when: Callable[[], bool] = on_loop) -> type:
    """A class of connections whose reads let the loop go on.

    Args:
        kind: One of redis-py's.
        when: Whether the caller may be suspended. Not where it holds what others on the loop would block for.
    """
    return type(kind.__name__, (_Yielding, kind), {"_may_wait": staticmethod(when)})


class _Yielding:
    _may_wait: Callable[[], bool]
    _sock: Any
    can_read: Any
    disconnect: Any

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        """redis-py callback: read one answer."""
        if self._may_wait() and not self.can_read(timeout=0):
            self._wait()
        return super().read_response(*args, **kwargs)  # type: ignore[misc]

    def _wait(self) -> None:
        sock = self._sock
        try:
            in_time = await_(_readable(sock.fileno(), sock.gettimeout()))
        except BaseException:
            self.disconnect()  # the answer would be taken for that of the next command
            raise
        if not in_time:
            sock.settimeout(_AT_ONCE)


async def _readable(fd: int, timeout: float | None) -> bool:
    """Wait until a descriptor is readable; returns whether it was in time."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, _set, ready)
    try:
        done, _ = await asyncio.wait([ready], timeout=timeout)
    finally:
        loop.remove_reader(fd)
    return bool(done)


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
