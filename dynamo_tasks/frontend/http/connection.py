"""One HTTP connection, with limits on what a client may make the server hold.

uvicorn's httptools protocol bounds neither the size nor the number of headers and trailers, waits for ever for a head
or a body that does not come, and for a client that does not read; where requests are pipelined, it does not tell the
first one that the client has left; it takes what follows the head of an ``Upgrade`` for the next request, and trailers
for headers. Here:

* a head must come within :attr:`ConnectionLimits.head_timeout`, and within its limits of size and number;
* a body must come at :attr:`ConnectionLimits.min_rate` at least, after ``body_timeout`` of patience
  (as in Apache's mod_reqtimeout, https://httpd.apache.org/docs/2.4/mod/mod_reqtimeout.html);
* what comes in a chunked body beside the body itself (sizes, extensions, trailers) is bounded and thrown away;
* a client that takes no data for ``write_timeout`` is cut off; its stream can be resumed;
* a client that closes only its own side gets its answer; whether it still reads is found out by writing;
* what is refused gets an answer in OpenAI's shape, unless an answer is under way.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import unquote

import httptools
import uvicorn
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

from dynamo_tasks.frontend.http.incoming import (
    ConnectionLimits,
    HttpRefusal,
    check_head,
    plain_head,
    too_much_head,
)
from dynamo_tasks.frontend.http.timeouts import Answer, OpenEndedAnswer, Phase, TimeoutProtocol

__all__ = ["ConnectionLimits", "GuardedConfig", "GuardedProtocol"]

_CHUNK = 18
"""Bytes that a chunk may take beside its data before they count: Go's net/http allows 16 and a line's end."""


class GuardedConfig(uvicorn.Config):
    """uvicorn's settings, and ours for :class:`GuardedProtocol`."""

    limits = ConnectionLimits()


class GuardedProtocol(TimeoutProtocol):
    """uvicorn's protocol within :class:`ConnectionLimits`."""

    def __init__(self, config: GuardedConfig, *args: Any, **kwargs: Any):
        super().__init__(config, config.limits, *args, **kwargs)
        self._head_size = 0
        self._beside = 0
        """Bytes of a chunked body that are not its data, less what its chunks may take."""
        self._counted = False
        self._trailers = 0
        self._upgrade = False
        self._keeps = True
        self._refusal: HttpRefusal | None = None

    def data_received(self, data: bytes) -> None:
        """Asyncio callback."""
        if self._phase == "refused":
            return
        self._unset_keepalive_if_required()
        before, self._counted = self._phase, True
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self._malformed()
            return
        self._count(before, len(data))
        if self._phase == "idle" and not self._timer.armed and not self._busy():
            self._timer.arm(self._limits.head_timeout, self._head_late)

    def _parse(self, data: bytes) -> None:
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                # The parser stops there: what follows is read anew, as the body of an ordinary request.
                head = plain_head(
                    self.parser.get_method(), self.url, self.parser.get_http_version(), self.headers
                )
                data = head + data[upgrade.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                self._upgrade = False

    def _count(self, before: Phase, size: int) -> None:
        """Count the bytes of a head, or beside a body; not the packet in which it began (256 KiB at most)."""
        if before != self._phase or not self._counted:
            self._beside = 0
            return
        if before == "head":
            self._head_size += size
        elif before == "body":
            self._beside += size
        if max(self._head_size, self._beside) > self._limits.head_bytes:
            self._refuse(too_much_head(self._limits))

    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def eof_received(self) -> bool:  # type: ignore[override]
        """Asyncio callback: the client sends no more, and may read on."""
        if self._phase in ("head", "body"):
            self._refuse(
                HttpRefusal(400, "malformed_request", "the connection was closed before the request's end")
            )
            return True
        if not self._busy() or self._phase == "refused":
            return False
        self.cycle.keep_alive = False  # the last one: what is pipelined before it is answered first
        self._probe()
        return True

    # parser callbacks

    def on_message_begin(self) -> None:
        """httptools callback: the first byte of a request."""
        super().on_message_begin()
        self._phase, self._head_size, self._beside, self._counted = "head", 0, 0, False
        if not self._timer.armed:
            self._timer.arm(self._limits.head_timeout, self._head_late)

    def on_url(self, url: bytes) -> None:
        """httptools callback; may come in parts."""
        super().on_url(url)
        if len(self.url) > self._limits.url_bytes:
            raise self._noted(
                HttpRefusal(414, "uri_too_long", f"the URL is longer than {self._limits.url_bytes} bytes")
            )

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools callback: one header line, or a trailer, which nobody reads."""
        if self._phase == "body":
            self._trailers += 1
            if self._trailers > self._limits.head_count:
                raise self._noted(too_much_head(self._limits))
            return
        self.headers.append((name.lower(), value.rstrip()))
        if len(self.headers) > self._limits.head_count:
            raise self._noted(too_much_head(self._limits))

    def on_headers_complete(self) -> None:
        """httptools callback: the head is complete."""
        if sum([len(name) + len(value) for name, value in self.headers]) > self._limits.head_bytes:
            raise self._noted(too_much_head(self._limits))
        method, version = self.parser.get_method(), self.parser.get_http_version()
        try:
            check_head(version, method, self.headers)
        except HttpRefusal as refusal:
            raise self._noted(refusal) from None
        self._upgrade = self.parser.should_upgrade()
        if not self._upgrade:
            self._fill_scope(method, version)
            self._begin(version)

    def _fill_scope(self, method: bytes, version: str) -> None:
        url = httptools.parse_url(self.url)
        path = url.path or b"/"
        if url.host:  # the absolute form, which overrides the header (RFC 9112, 3.2.2)
            host = url.host if url.port is None else b"%b:%d" % (url.host, url.port)
            self.headers[:] = [
                *((name, value) for name, value in self.headers if name != b"host"),
                (b"host", host),
            ]
        text = path.decode("ascii")
        self.scope |= {
            "method": method.decode("ascii"),
            "http_version": version,
            "path": self.root_path + (unquote(text) if "%" in text else text),
            "raw_path": self.root_path.encode("ascii") + path,
            "query_string": url.query or b"",
        }

    def _begin(self, version: str) -> None:
        """Answer the request, or let it wait behind another."""
        waits, cycle = self._busy(), self._new_cycle(version)
        self.cycle = cycle
        # One is answered at a time: what a client sends ahead stays in the buffers between us.
        if waits:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))
            if len(self.pipeline) > self._limits.pipelined:
                raise self._noted(
                    HttpRefusal(429, "too_many_requests", "too many requests wait on this connection")
                )
        else:
            self._start_asgi_task(cycle, self.app)
        self._phase, self._body_size, self._began, self._trailers = "body", 0, self.loop.time(), 0
        self._timer.arm(self._limits.body_timeout, self._body_late)

    def _new_cycle(self, version: str) -> Any:
        keeps = version == "1.1" and self.parser.should_keep_alive()
        expected = [value.lower() for name, value in self.headers if name == b"expect"]
        waits = version == "1.1" and b"100-continue" in expected
        self._keeps = keeps
        kind = Answer if version == "1.1" else OpenEndedAnswer
        return kind(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=waits,
            # An answer that comes before the body was asked for: whether the body still comes, nobody knows.
            keep_alive=keeps and not waits,
            on_response=self.on_response_complete,
        )

    def on_body(self, body: bytes) -> None:
        """httptools callback: a part of the body."""
        size = len(body)
        self._body_size += size
        self._beside -= size + _CHUNK
        cycle = self.cycle
        # Answered before it had come: the rest is read for a while, else a reset would hide the answer.
        if cycle.response_complete:
            if self._body_size > self._limits.unread:
                raise self._noted(HttpRefusal(413, "payload_too_large", "the body does not end"))
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        """httptools callback: the request has come as a whole."""
        if self._upgrade:
            return
        self._phase = "idle"
        self._timer.disarm()
        if not self.cycle.response_complete:
            if not self.cycle.response_started:
                self.cycle.keep_alive = self._keeps
            self.cycle.more_body = False
            self.cycle.message_event.set()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    # refusals

    def _noted(self, refusal: HttpRefusal) -> HttpRefusal:
        self._refusal = refusal
        return refusal

    def _malformed(self) -> None:
        """Refuse a request at which the parser stopped: it is malformed, or a callback refused it."""
        refusal, self._refusal = self._refusal, None
        self._refuse(refusal or HttpRefusal(400, "malformed_request", "this is no valid HTTP/1.1 request"))
