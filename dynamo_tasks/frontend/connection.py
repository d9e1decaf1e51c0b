"""One HTTP connection, with limits on what a client may make the server hold.

uvicorn's httptools protocol bounds neither the size nor the number of headers, waits for ever for a head or
a body that does not come, and for a client that does not read; and where requests are pipelined, it does not
tell the first one that the client has left. Here:

* a head must come within :attr:`ConnectionLimits.head_timeout`, and within its limits of size and number;
* a body must come at :attr:`ConnectionLimits.min_rate` at least, after ``body_timeout`` of patience
  (as in Apache's mod_reqtimeout, https://httpd.apache.org/docs/2.4/mod/mod_reqtimeout.html);
* a client that takes no data for ``write_timeout`` is cut off; its stream can be resumed;
* what is refused gets an answer in OpenAI's shape, unless an answer is under way.
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import msgspec
import uvicorn
from msgspec import Struct
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.frontend.errors import error_payload
from dynamo_tasks.observe import log

__all__ = ["ConnectionLimits", "GuardedConfig", "GuardedProtocol"]

_Phase = Literal["idle", "head", "body", "refused"]
_LINGER = 2.0
"""Seconds for which a refused client may go on sending: a connection that is closed over unread data is reset,
and the client would not see the answer."""


class ConnectionLimits(Struct, frozen=True, kw_only=True):
    """What one connection may take.

    Attributes:
        head_bytes: Of all header lines of a request (32 KiB).
        head_count: Header lines of a request (100).
        url_bytes: Of the request's path and query (8 KiB).
        pipelined: Requests that wait behind one that is being answered (16).
        head_timeout: Seconds for a request's head, also for the first one of a connection (10).
        body_timeout: Seconds after which a body must have come at ``min_rate`` (20).
        min_rate: Bytes per second of a body (500).
        write_timeout: Seconds for which a client may take, or acknowledge, nothing of its answer (60).
    """

    head_bytes: int = 32 << 10
    head_count: int = 100
    url_bytes: int = 8 << 10
    pipelined: int = 16
    head_timeout: float = 10.0
    body_timeout: float = 20.0
    min_rate: float = 500.0
    write_timeout: float = 60.0

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be more than 0, not {getattr(self, name)}")


class GuardedConfig(uvicorn.Config):
    """uvicorn's settings, and ours for :class:`GuardedProtocol`."""

    limits = ConnectionLimits()


class _Refusal(Exception):  # noqa: N818 - raised through httptools, never seen by a caller
    """What is wrong with a request: its HTTP status, the code and the text of the answer."""

    def __init__(self, status: int, code: str, text: str):
        super().__init__(text)
        self.status, self.code, self.text = status, code, text


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's protocol within :class:`ConnectionLimits`."""

    def __init__(self, config: GuardedConfig, *args: Any, **kwargs: Any):
        super().__init__(config, *args, **kwargs)
        self._limits = config.limits
        self._phase: _Phase = "idle"
        self._head_size = 0
        self._body_size = 0
        self._began = 0.0
        self._refusal: _Refusal | None = None
        self._answering: Any = None
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Asyncio callback: the first head must come in time."""
        super().connection_made(transport)
        self._arm(self._limits.head_timeout, self._head_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """Asyncio callback."""
        self._disarm()
        self._writable()
        self._tell_handlers()
        super().connection_lost(exc)

    def _tell_handlers(self) -> None:
        """The client has left: for whoever is being answered, and for those who wait behind that."""
        for cycle in (self._answering, *(waiting for waiting, _ in self.pipeline)):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    def data_received(self, data: bytes) -> None:
        """Asyncio callback."""
        if self._phase == "refused":
            return
        before = self._phase
        super().data_received(data)
        if before == self._phase == "head":  # its beginning is not counted; a chunk is 256 KiB at most
            self._head_size += len(data)
            if self._head_size > self._limits.head_bytes:
                self._refuse(_too_much_head(self._limits))
        elif self._phase == "idle" and self._timer is None and not self._busy():
            self._arm(self._limits.head_timeout, self._head_late)

    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    # parser callbacks

    def on_message_begin(self) -> None:
        """httptools callback: the first byte of a request."""
        super().on_message_begin()
        self._phase, self._head_size = "head", 0
        if self._timer is None:
            self._arm(self._limits.head_timeout, self._head_late)

    def on_url(self, url: bytes) -> None:
        """httptools callback; may come in parts."""
        super().on_url(url)
        if len(self.url) > self._limits.url_bytes:
            raise self._noted(
                _Refusal(414, "uri_too_long", f"the URL is longer than {self._limits.url_bytes} bytes")
            )

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools callback: one header line."""
        super().on_header(name, value)
        if len(self.headers) > self._limits.head_count:
            raise self._noted(_too_much_head(self._limits))

    def on_headers_complete(self) -> None:
        """httptools callback: the head is complete."""
        if sum([len(name) + len(value) for name, value in self.headers]) > self._limits.head_bytes:
            raise self._noted(_too_much_head(self._limits))
        super().on_headers_complete()
        if len(self.pipeline) > self._limits.pipelined:
            raise self._noted(_Refusal(429, "too_many_requests", "too many requests wait on this connection"))
        self._phase, self._body_size, self._began = "body", 0, self.loop.time()
        self._arm(self._limits.body_timeout, self._body_late)

    def on_body(self, body: bytes) -> None:
        """httptools callback: a part of the body."""
        self._body_size += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """httptools callback: the request has come as a whole."""
        self._phase = "idle"
        self._disarm()
        super().on_message_complete()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    # timers

    def _arm(self, delay: float, late: Any) -> None:
        self._disarm()
        self._timer = self.loop.call_later(delay, late)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _head_late(self) -> None:
        self._timer = None
        if self._phase == "head":
            self._refuse(_Refusal(408, "request_timeout", "the request's head did not come in time"))
        else:
            self._close()

    def _body_late(self) -> None:
        if self.flow.read_paused:  # it is not the client who is late
            self._began = self.loop.time()
        due = self._limits.body_timeout + self._body_size / self._limits.min_rate
        left = self._began + due - self.loop.time()
        if left > 0:
            self._timer = self.loop.call_later(left, self._body_late)
        else:
            self._refuse(_Refusal(408, "request_timeout", "the request's body did not come in time"))

    def pause_writing(self) -> None:
        """Asyncio callback: the client does not take what is sent."""
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self._limits.write_timeout, self._write_late)

    def resume_writing(self) -> None:
        """Asyncio callback: it does again."""
        super().resume_writing()
        self._writable()

    def _writable(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _write_late(self) -> None:
        self._write_timer = None
        log.event("http.cut_off", reason="takes no data", client=_peer(self.client))
        self.transport.abort()

    # refusals

    def _noted(self, refusal: _Refusal) -> _Refusal:
        self._refusal = refusal
        return refusal

    def send_400_response(self, msg: str) -> None:
        """uvicorn callback: the parser stopped, over something malformed or over a refusal of ours."""
        refusal, self._refusal = self._refusal, None
        self._refuse(refusal or _Refusal(400, "malformed_request", "this is no valid HTTP/1.1 request"))

    def _refuse(self, refusal: _Refusal) -> None:
        """Answer, if no other answer is under way, and close."""
        self._disarm()
        log.event("http.cut_off", reason=refusal.text, client=_peer(self.client))
        running, self._phase = self._answering, "refused"
        if running is not None and running.response_started and not running.response_complete:
            self.transport.abort()
            return
        self._tell_handlers()
        self.transport.write(_answer(refusal))
        self.transport.write_eof()
        self._arm(_LINGER, self.transport.abort)

    def timeout_keep_alive_handler(self) -> None:
        """uvicorn callback: nothing came for long after an answer."""
        self._close()

    def _close(self) -> None:
        """Close; what the client does not take, it loses."""
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._arm(self._limits.write_timeout, self.transport.abort)


def _too_much_head(limits: ConnectionLimits) -> _Refusal:
    text = f"the request has more than {limits.head_count} headers, or more than {limits.head_bytes} bytes of them"
    return _Refusal(431, "headers_too_large", text)


def _answer(refusal: _Refusal) -> bytes:
    body = msgspec.json.encode(error_payload(refusal.status, refusal.text, refusal.code))
    head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
    return STATUS_LINE[refusal.status] + head + body


def _peer(client: tuple[str, int] | None) -> str:
    return client[0] if client else "unknown"
