"""Accepting connections while descriptors last, and saying so when they don't.

asyncio's own way out of descriptors is a traceback for each place in the backlog, and a second of silence. Here the
last descriptors are left to the process itself (to reach its Redis server again, say): a connection that would take one
of them is answered with 503 and closed, and so is one for which there is none at all, thanks to one that is held back.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import socket
from collections import deque
from collections.abc import Callable

from dynamo_tasks.frontend.http.framing import Refusal
from dynamo_tasks.observe import log
from dynamo_tasks.observe.throttle import LogThrottle

__all__ = ["Acceptor", "allow_many_files"]

_AT_ONCE = 64
"""Connections that are accepted before the loop has a turn."""
_SPARE = 32
"""Descriptors that are left to the process, or a quarter of all if that is less."""
_LINGER = 8
"""Refused connections that may still be read by their clients."""
_LINGER_S = 1.0
_PAUSE_S = 0.25
_NONE_LEFT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def allow_many_files() -> None:
    """Raise this process's soft limit of open files to its hard limit: each stream is a socket."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Acceptor:
    """Accepts what comes to a listening socket; like an asyncio server, as far as uvicorn asks.

    Args:
        listener: Bound, listening and non-blocking; the caller closes it.
        protocol: Makes the protocol of a connection.
    """

    def __init__(self, listener: socket.socket, protocol: Callable[[], asyncio.Protocol]):
        self.sockets = (listener,)
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._protocol = protocol
        self._tasks: set[asyncio.Task[None]] = set()
        self._refused: deque[socket.socket] = deque()
        self._calm = LogThrottle(every=1.0)
        self._pause: asyncio.TimerHandle | None = None
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._highest = limit - min(_SPARE, limit // 4) if limit != resource.RLIM_INFINITY else limit
        self._spare = _spare()
        self._resume()

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listener, self._ready)

    def _ready(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as exc:
                self._none_left(exc)
                return
            connection.setblocking(False)
            if 0 <= self._highest <= connection.fileno():
                self._refuse(connection)
            else:
                self._take(connection)

    def _take(self, connection: socket.socket) -> None:
        task = self._loop.create_task(self._connect(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError:  # it is gone again
            connection.close()

    def _none_left(self, exc: OSError) -> None:
        """The process has no descriptor left, or something else is wrong with the listener: wait for better times."""
        if exc.errno in _NONE_LEFT and self._spare is not None:
            os.close(self._spare)
            self._spare = None
            with contextlib.suppress(OSError):
                self._refuse(self._listener.accept()[0])
            while self._refused:
                self._refused.popleft().close()
            self._spare = _spare()
        self._tell(exc.strerror or str(exc))
        self._loop.remove_reader(self._listener)
        self._pause = self._loop.call_later(_PAUSE_S, self._resume)

    def _refuse(self, connection: socket.socket) -> None:
        self._tell("too many open files")
        refusal = Refusal(503, "unavailable", "the server has no room for another connection")
        with contextlib.suppress(OSError):
            connection.setblocking(False)
            connection.send(refusal.answer())
            connection.shutdown(socket.SHUT_WR)
        # Closed over an unread request it would be reset, and the client might not see the answer.
        self._refused.append(connection)
        self._loop.call_later(_LINGER_S, connection.close)
        while len(self._refused) > _LINGER:
            self._refused.popleft().close()

    def _tell(self, reason: str) -> None:
        if self._calm.due():
            log.event("http.full", reason=reason)

    def close(self) -> None:
        """Accept no more."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listener)
        for connection in self._refused:
            connection.close()
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None

    async def wait_closed(self) -> None:
        """Everything accepted has its protocol."""
        if self._tasks:
            await asyncio.wait(self._tasks)


def _spare() -> int | None:
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
