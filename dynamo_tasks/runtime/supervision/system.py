"""The system port of a process: ``/metrics``, ``/live`` and ``/health`` for scrapers and probes.

It is served by threads of its own, and not by the event loop: a loop that is blocked (by an endpoint that computes
in a coroutine, by a driver that hangs) could only be silent, and a probe would have to guess from its time-out. So
``/live`` is 503 while the loop does not turn, and says for how long; and the metrics of such a process can be read.
A process that holds the GIL in foreign code answers nobody, which a probe takes for the same.

Off by default. ``ServiceArgs.system_port`` sets it per service, ``DYNAMO_SYSTEM_PORT`` for all of a machine's
processes; 0 = any free port. It listens on ``DYNAMO_SYSTEM_HOST``, 127.0.0.1 by default.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

from dynamo_tasks.config.host.given import variable
from dynamo_tasks.errors import ConfigError
from dynamo_tasks.observe import event, metrics
from dynamo_tasks.runtime.supervision.actor import Actor

__all__ = ["HOST_VARIABLE", "PORT_VARIABLE", "SystemServer", "system_port"]

PORT_VARIABLE, HOST_VARIABLE = "DYNAMO_SYSTEM_PORT", "DYNAMO_SYSTEM_HOST"
_BEAT = 0.25
_TIMEOUT = 5.0
"""Seconds that a client may take for its request."""


def system_port(configured: int | None, environ: Mapping[str, str] = os.environ) -> int | None:
    """The port of this process; ``None`` = off.

    Args:
        configured: ``ServiceArgs.system_port``, where somebody set it.
        environ: ``os.environ`` by default.

    Raises:
        ConfigError: ``DYNAMO_SYSTEM_PORT`` is no port.
    """
    if configured is not None:
        return configured
    text = variable(PORT_VARIABLE, environ)
    return None if text is None else int(text)


class SystemServer(Actor):
    """Serves the system port of a process; its own task is the heartbeat of the event loop.

    Args:
        port: 0 = any free one; see :attr:`port` after the start.
        why_not: Says why the process takes no work now; ``""`` where it does. Called in a thread.
        max_lag: Seconds without a turn of the event loop after which the process does not count as live.
        host: Address to listen at; ``DYNAMO_SYSTEM_HOST`` by default.
    """

    name = "system-port"

    def __init__(
        self, port: int, why_not: Callable[[], str], *, max_lag: float = 2.0, host: str | None = None
    ):
        self.host = host or os.environ.get(HOST_VARIABLE) or "127.0.0.1"
        self.port = port
        self._why_not = why_not
        self._max_lag = max_lag
        self._beat = time.monotonic()
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    async def start(self) -> None:
        """Listen, and begin to watch the loop.

        Raises:
            ConfigError: the port is taken, or this machine has no such address.
        """
        if self._server is not None:
            return
        self._server = self._listen()
        self.port = self._server.server_address[1]
        # Short polls: stop() waits for one of them.
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name=self.name, daemon=True
        )
        self._thread.start()
        await super().start()
        event("system.start", host=self.host, port=self.port)

    def _listen(self) -> ThreadingHTTPServer:
        try:
            family = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0][0]
            server = type("SystemHTTP", (_Server,), {"address_family": family})
            return server((self.host, self.port), _handler(self))  # type: ignore[no-any-return]
        except (OSError, UnicodeError) as exc:
            reason = getattr(exc, "strerror", None) or exc
            raise ConfigError(
                f"system port {self.port} on {self.host}: {reason}; every process of a machine needs one "
                f"of its own ({PORT_VARIABLE}=0 = any free one)"
            ) from None

    async def stop(self) -> None:
        """Stop listening; idempotent."""
        await super().stop()
        server, self._server = self._server, None
        if server is not None:
            await asyncio.to_thread(server.shutdown)
            server.server_close()

    async def _run(self) -> None:
        while True:
            self._beat = time.monotonic()
            await asyncio.sleep(_BEAT)

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Status, content type and body of a GET; called in a thread."""
        if path == "/metrics":
            return 200, metrics.CONTENT_TYPE, metrics.render()
        if path == "/live":
            return self._json(self._blocked(), "alive", "blocked")
        if path == "/health":
            return self._json(self._blocked() or self._why_not(), "healthy", "unhealthy")
        return 404, "application/json", b'{"error": "there are /metrics, /live and /health"}'

    def _blocked(self) -> str:
        silent = time.monotonic() - self._beat - _BEAT
        return f"the event loop has been blocked for {silent:.1f} s" if silent > self._max_lag else ""

    @staticmethod
    def _json(reason: str, good: str, bad: str) -> tuple[int, str, bytes]:
        shown = {"status": bad, "reason": reason} if reason else {"status": good}
        return 503 if reason else 200, "application/json", json.dumps(shown).encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 32


def _handler(system: SystemServer) -> type[BaseHTTPRequestHandler]:
    """A handler class of the standard library for one server."""

    class _Handler(BaseHTTPRequestHandler):
        timeout: ClassVar[float] = _TIMEOUT
        server_version = "dynamo-tasks"
        sys_version = ""

        def do_GET(self) -> None:
            status, kind, body = system.answer(self.path.partition("?")[0])
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """A probe every second is not worth a line."""

    return _Handler
