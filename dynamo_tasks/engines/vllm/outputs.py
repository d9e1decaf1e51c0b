"""Reader of the outputs of vLLM's engine core: takes all that wait, and not more often than is of use.

vLLM reads them through ``zmq.asyncio``, which takes this process longer than all that is done with them. Here they
are read from the same socket without it. And where many streams rest anyway, a step that comes soon after the last
one waits for a moment, so that several are read at once: see
:func:`dynamo_tasks.engines.coalescing.gap`.

What is used of vLLM: its client reads with ``await resources.output_socket.recv_multipart(copy=False)``, and closes
the socket in the end.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import zmq

__all__ = ["Outputs"]


class Outputs:
    """Takes the place of two methods of a socket; belongs to the event loop that reads first.

    Args:
        socket: A ``zmq.asyncio.Socket`` that nobody has read from.
        gap: Seconds that lie between two looks at it, at the least.
    """

    def __init__(self, socket: Any, gap: Callable[[], float]):
        self._socket: Any = zmq.Socket.shadow(socket.underlying)
        self._fd: int = socket.getsockopt(zmq.FD)
        self._gap = gap
        self._due = 0.0
        self._read: deque[list[Any]] = deque()
        self._arrived: asyncio.Future[None] | None = None
        self._close = socket.close
        socket.recv_multipart, socket.close = self.recv_multipart, self.close

    async def recv_multipart(self, copy: bool = False) -> list[Any]:
        """The frames of the next message."""
        loop = asyncio.get_running_loop()
        while not self._read:
            rest = self._due - loop.time()
            if rest > 0:
                await asyncio.sleep(rest)
            if self._take(copy):
                self._due = loop.time() + self._gap()
            else:
                await self._arrival(loop)
        return self._read.popleft()

    def _take(self, copy: bool) -> bool:
        # Up to Again: ZMQ's descriptor is edge-triggered, and does not signal what was left unread.
        with suppress(zmq.Again):
            while True:
                self._read.append(self._socket.recv_multipart(zmq.NOBLOCK, copy=copy))
        return bool(self._read)

    async def _arrival(self, loop: asyncio.AbstractEventLoop) -> None:
        arrived: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._fd, _done, arrived)
        self._arrived = arrived
        try:
            await arrived
        finally:
            self._unwatch()

    def _unwatch(self) -> None:
        arrived, self._arrived = self._arrived, None
        if arrived is not None and not arrived.get_loop().is_closed():
            arrived.get_loop().remove_reader(self._fd)
            arrived.cancel()

    def close(self, *args: Any, **kwargs: Any) -> None:
        """Close the socket. Its descriptor may be another one's at once, so it is watched no more."""
        self._unwatch()
        self._close(*args, **kwargs)


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
