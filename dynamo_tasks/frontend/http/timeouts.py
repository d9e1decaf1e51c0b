"""The times for which a connection waits for its client, and the ways in which it, or an answer on it, ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Literal

import uvicorn
from starlette.types import Message
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from dynamo_tasks.frontend.http.incoming import ConnectionLimits, HttpRefusal
from dynamo_tasks.observe import log

__all__ = ["PROBE", "Answer", "OpenEndedAnswer", "Phase", "TimeoutProtocol"]

PROBE = "dynamo_tasks.probe"
"""Key of a scope: what sends a byte that means nothing, where an answer can hold one. Somebody who has closed the
connection answers that with a reset; somebody who has closed only its own side reads on."""

Answer: Any = RequestResponseCycle
"""One request and its answer."""


class OpenEndedAnswer(RequestResponseCycle):
    """An answer to a client without chunks (HTTP/1.0): without a length, it ends with the connection."""

    open_ended = False

    async def send(self, message: Message) -> None:  # type: ignore[override]
        """The ASGI channel."""
        if message["type"] == "http.response.start":
            self.open_ended = all(name.lower() != b"content-length" for name, _ in message.get("headers", ()))
            if self.open_ended:
                self.chunked_encoding = False
        elif self.open_ended:
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)  # type: ignore[arg-type]


Phase = Literal["idle", "head", "body", "refused"]
_LINGER = 2.0
"""Seconds for which a refused client may go on sending: a connection that is closed over unread data is reset,
and the client would not see the answer."""
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_RESET = 0.25
"""Seconds in which the answer to a probe is there."""


class _Timer:
    """A time that a connection waits for something; armed again, it begins anew."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self._loop = loop
        self._handle: asyncio.TimerHandle | None = None

    @property
    def armed(self) -> bool:
        """``True`` while it runs."""
        return self._handle is not None

    def arm(self, delay: float, late: Callable[[], None]) -> None:
        """Call ``late`` after so many seconds, unless it is disarmed before."""
        self.disarm()
        self._handle = self._loop.call_later(delay, self._fire, late)

    def _fire(self, late: Callable[[], None]) -> None:
        self._handle = None
        late()

    def disarm(self) -> None:
        """Forget it; it may not run at all."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


class TimeoutProtocol(HttpToolsProtocol):
    """uvicorn's protocol within the times of :class:`~dynamo_tasks.frontend.http.incoming.ConnectionLimits`."""

    def __init__(self, config: uvicorn.Config, limits: ConnectionLimits, *args: Any, **kwargs: Any):
        super().__init__(config, *args, **kwargs)
        self._limits = limits
        self._phase: Phase = "idle"
        self._body_size = 0
        self._began = 0.0
        self._answering: Any = None
        self._timer = _Timer(self.loop)
        self._write_timer = _Timer(self.loop)
        self._probe_timer = _Timer(self.loop)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Asyncio callback: the first head must come in time."""
        super().connection_made(transport)
        self._timer.arm(self._limits.head_timeout, self._head_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Asyncio callback."""
        for timer in (self._timer, self._write_timer, self._probe_timer):
            timer.disarm()
        self._notify_handlers()
        super().connection_lost(exc)

    def _notify_handlers(self) -> None:
        """Notify the handlers of all unanswered requests that the client has left."""
        for cycle in (self._answering, *(waiting for waiting, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    def _head_late(self) -> None:
        if self._phase == "head":
            self._refuse(HttpRefusal(408, "request_timeout", "the request's head did not come in time"))
        else:
            self._close()

    def _body_late(self) -> None:
        if self.flow.read_paused:  # we take no more for the moment: it is not the client who is late
            self._began = self.loop.time()
        due = self._limits.body_timeout + self._body_size / self._limits.min_rate
        left = self._began + due - self.loop.time()
        if left > 0:
            self._timer.arm(left, self._body_late)
        else:
            self._refuse(HttpRefusal(408, "request_timeout", "the request's body did not come in time"))

    def _probe(self) -> None:
        """Write something without a meaning: a client that has closed the whole connection sends a reset."""
        cycle = self._answering
        if not cycle.response_started and cycle.scope["http_version"] == "1.1":
            self.transport.write(_CONTINUE)
        elif probe := cycle.scope.get(PROBE):
            probe()
        self._probe_timer.arm(_RESET, self._probed)

    def _probed(self) -> None:
        # The transport reads no longer, so it does not see a reset by itself.
        if self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
        else:
            self._probe_timer.arm(self._limits.probe, self._probe)

    def pause_writing(self) -> None:
        """Asyncio callback: the client does not take what is sent."""
        super().pause_writing()
        if not self._write_timer.armed:
            self._write_timer.arm(self._limits.write_timeout, self._write_late)

    def resume_writing(self) -> None:
        """Asyncio callback: it does again."""
        super().resume_writing()
        self._write_timer.disarm()

    def _write_late(self) -> None:
        log.event("http.cut_off", reason="takes no data", client=_peer(self.client))
        self.transport.abort()

    def _refuse(self, refusal: HttpRefusal) -> None:
        """Answer, if no other answer is under way, and close."""
        self._timer.disarm()
        log.event("http.cut_off", reason=refusal.text, client=_peer(self.client))
        running, self._phase = self._answering, "refused"
        # What comes in the middle of an answer would be taken for a part of it.
        if running is not None and running.response_started and not running.response_complete:
            self.transport.abort()
            return
        self._notify_handlers()
        self.transport.write(refusal.answer())
        self.transport.write_eof()
        self._timer.arm(_LINGER, self.transport.abort)

    def timeout_keep_alive_handler(self) -> None:
        """uvicorn callback: nothing came for long after an answer."""
        self._close()

    def _close(self) -> None:
        """Close; what the client does not take, it loses."""
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._timer.arm(self._limits.write_timeout, self.transport.abort)


def _peer(client: tuple[str, int] | None) -> str:
    return client[0] if client else "unknown"
