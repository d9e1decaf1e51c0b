"""uvicorn inside a running event loop, which accepts connections while descriptors last, and says so when they don't.

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
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.frontend.http.connection import ConnectionLimits, GuardedConfig, GuardedProtocol
from dynamo_tasks.frontend.http.incoming import HttpRefusal
from dynamo_tasks.observe import log
from dynamo_tasks.observe.throttle import LogThrottle

__all__ = ["HttpServer", "allow_many_files"]

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
        self._throttle = LogThrottle(every=1.0)
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
            # Some descriptors stay free: requests that run need more of them, for files and for Redis.
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
            # Accepted with the one that was kept for this: else it would wait without a word, and keep the loop awake.
            os.close(self._spare)
            self._spare = None
            with contextlib.suppress(OSError):
                self._refuse(self._listener.accept()[0])
            while self._refused:
                self._refused.popleft().close()
            self._spare = _spare()
        self._report(exc.strerror or str(exc))
        self._loop.remove_reader(self._listener)
        self._pause = self._loop.call_later(_PAUSE_S, self._resume)

    def _refuse(self, connection: socket.socket) -> None:
        self._report("too many open files")
        refusal = HttpRefusal(503, "unavailable", "the server has no room for another connection")
        with contextlib.suppress(OSError):
            connection.setblocking(False)
            connection.send(refusal.answer())
            connection.shutdown(socket.SHUT_WR)
        # Closed over an unread request it would be reset, and the client might not see the answer.
        self._refused.append(connection)
        self._loop.call_later(_LINGER_S, connection.close)
        while len(self._refused) > _LINGER:
            self._refused.popleft().close()

    def _report(self, reason: str) -> None:
        if self._throttle.due():
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


_BACKLOG = 2048
_SWITCH = 0.001
"""Seconds for which a thread that reads a large body keeps the loop from its turn, of which an answer needs several;
Python's own are five times as many."""


class HttpServer:
    """Serves an ASGI application.

    ::

        server = HttpServer(app, "127.0.0.1", 0)
        await server.start()
        print(server.url)
        await server.stop()
    """

    def __init__(
        self,
        app: ASGIApp,
        host: str = "127.0.0.1",
        port: int = 8000,
        *,
        reuse_port: bool = False,
        streams_end_within: float = 2.0,
        limits: ConnectionLimits | None = None,
    ):
        """Make the server; nothing listens yet.

        Args:
            app: What it serves.
            host: Address or name to listen at.
            port: 0 = a free one; see :attr:`port` after :meth:`start`.
            reuse_port: Share the port with other processes (``SO_REUSEPORT``).
            streams_end_within: Seconds that open streams get at :meth:`stop`. They can be resumed elsewhere, so few.
            limits: What a connection may take.
        """
        self.host = host
        self.port = port
        self._app = app
        self._reuse_port = reuse_port
        self._streams_end_within = streams_end_within
        self._limits = limits or ConnectionLimits()
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """``http://host:port``; a wildcard address is shown as the loopback one."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    async def start(self) -> None:
        """Listen; returns when connections are accepted.

        Raises:
            ConfigError: The port is in use, or the address cannot be bound.
            RuntimeError: It was started before.
        """
        if self._task is not None:
            raise RuntimeError("the HTTP server was started before")
        allow_many_files()
        sys.setswitchinterval(_SWITCH)
        listener = _listen(self.host, self.port, self._reuse_port)
        _give_up_after(listener, self._limits.write_timeout)
        self.port = listener.getsockname()[1]
        self._server = _Server(self._config())
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]))
        started = asyncio.create_task(self._server.ready.wait())
        await asyncio.wait([started, self._task], return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        if self._task.done():
            listener.close()
            self._task.result()
        log.event("http.start", host=self.host, port=self.port)

    async def stop(self) -> None:
        """Accept no more, let open requests end for a while, close; may be called twice."""
        if self._server is None or self._task is None:
            return
        open_tasks = set(self._server.server_state.tasks)
        self._server.should_exit = True
        # What is cancelled at last must have left its stream before the caller closes what is behind it.
        await asyncio.wait([self._task, *open_tasks])
        self._server = None
        log.event("http.stop", host=self.host, port=self.port, open_streams=len(open_tasks))

    def _config(self) -> GuardedConfig:
        config = GuardedConfig(
            self._app,
            http=GuardedProtocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="critical",  # the application logs its own errors; a stream cut off by stop() is none
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=self._streams_end_within,  # type: ignore[arg-type]  # it takes fractions as well
        )
        config.limits = self._limits
        return config


class _Server(uvicorn.Server):
    """Leaves signals to the process, and reports when it is ready."""

    def __init__(self, config: GuardedConfig):
        super().__init__(config)
        self._guarded = config
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; uvicorn's own way would log a traceback for each connection that finds no descriptor."""
        if not self.config.loaded:
            self.config.load()
        servers: list[Any] = [Acceptor(listener, self._protocol) for listener in sockets or ()]
        self.servers = servers
        self.started = True
        self.ready.set()

    def _protocol(self) -> asyncio.Protocol:
        return GuardedProtocol(self._guarded, self.server_state, {})


def _give_up_after(listener: socket.socket, seconds: float) -> None:
    """Have the kernel give up accepted connections that acknowledge nothing for so long, or die while idle.

    A client that vanished without a word looks connected for a quarter of an hour otherwise, and its request
    would run on. Source: tcp(7); on Linux an accepted socket inherits the options.
    """
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in {
        "TCP_USER_TIMEOUT": int(1000 * seconds),
        "TCP_KEEPIDLE": max(1, int(seconds / 2)),
        "TCP_KEEPINTVL": max(1, int(seconds / 6)),
    }.items():
        if hasattr(socket, name):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _listen(host: str, port: int, reuse_port: bool) -> socket.socket:
    """A bound socket; what it accepts has Nagle's algorithm off (on Linux the option is inherited)."""
    if not 0 <= port <= 65535:
        raise ConfigError(f"port {port} is not in 0..65535")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as exc:
        raise ConfigError(f"the host {host!r} is not known: {exc.strerror}") from None
    family, kind, proto, _, address = found[0]
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if reuse_port:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)  # here, so that a port in use is found now and not in the background
    except OSError as exc:
        listener.close()
        raise ConfigError(_why(exc, host, port)) from None
    listener.setblocking(False)
    return listener


def _why(exc: OSError, host: str, port: int) -> str:
    if exc.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use; choose another one (--port)"
    return f"cannot listen on {host}:{port}: {exc.strerror or exc}"
