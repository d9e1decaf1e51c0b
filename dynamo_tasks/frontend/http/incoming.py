"""Heads and bodies of requests, as they come in: what is refused of them, and the limits of a connection.

What two readers of the same bytes could understand in two ways is refused (request smuggling, RFC 9112 section 11):
httptools refuses most of it, :func:`check_head` the rest. An ``Upgrade`` is not followed, so its request is an ordinary
one with an ordinary body, whatever the parser thinks (:func:`plain_head`).

A body is read within a limit: as it comes, or as gzip, in steps that leave the event loop its turns.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Iterable, Sequence

import msgspec
from msgspec import Struct
from starlette.requests import ClientDisconnect
from starlette.types import Receive
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from dynamo_tasks.errors import (
    ConfigError,
    InvalidRequestError,
    PayloadTooLargeError,
    UnsupportedEncodingError,
)
from dynamo_tasks.frontend.http.errors import ENCODINGS, error_payload

__all__ = [
    "ConnectionLimits",
    "Headers",
    "HttpRefusal",
    "check_head",
    "decompressed",
    "encoding_of",
    "plain_head",
    "read_body",
    "too_much_head",
]

Headers = Sequence[tuple[bytes, bytes]]

_HOST = re.compile(rb"(?:[A-Za-z0-9._~%!$&'()*+;=-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_UPGRADING = frozenset({b"upgrade", b"http2-settings"})
_STEP = 128 << 10
"""Bytes that come out between two turns of the loop: a fraction of a millisecond."""
_RATIO, _FREE = 200, 1 << 20
"""Text is compressed 3 to 20 times; beyond the first MiB, more than 200 times is no text."""
_MEMBERS = 1000
_GZIP = 16 + zlib.MAX_WBITS
_READ_ON = 8
"""Times the limit up to which a body that is too large is read to its end, and thrown away: a client that is cut off
while it uploads sees a broken connection instead of the answer."""


class ConnectionLimits(Struct, frozen=True, kw_only=True):
    """The limits of one connection.

    Attributes:
        head_bytes: Of all header lines of a request (32 KiB); as much again is allowed for the trailers of a chunked
            body, together with what its chunks take beyond 18 bytes each.
        head_count: Header lines of a request (100), and of its trailers.
        url_bytes: Of the request's path and query (8 KiB).
        pipelined: Requests that wait behind one that is being answered (16).
        head_timeout: Seconds for a request's head, also for the first one of a connection (10).
        body_timeout: Seconds after which a body must have come at ``min_rate`` (20).
        min_rate: Bytes per second of a body (500).
        unread: Bytes of a body that may still come once its request has its answer (80 MiB).
        write_timeout: Seconds for which a client may take, or acknowledge, nothing of its answer (60).
        probe: Seconds between two looks whether a client that has closed its side still reads (5).
    """

    head_bytes: int = 32 << 10
    head_count: int = 100
    url_bytes: int = 8 << 10
    pipelined: int = 16
    head_timeout: float = 10.0
    body_timeout: float = 20.0
    min_rate: float = 500.0
    unread: int = 80 << 20
    write_timeout: float = 60.0
    probe: float = 5.0

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be more than 0, not {getattr(self, name)}")


class HttpRefusal(Exception):  # noqa: N818 - raised through httptools, never seen by a caller
    """The refusal of a request: the HTTP status, the code and the text of the answer."""

    def __init__(self, status: int, code: str, text: str):
        super().__init__(text)
        self.status, self.code, self.text = status, code, text

    def answer(self) -> bytes:
        """The whole HTTP answer; the connection ends with it."""
        body = msgspec.json.encode(error_payload(self.status, self.text, self.code))
        retry = b"retry-after: 1\r\n" if self.status in (429, 503) else b""
        head = b"content-type: application/json\r\nconnection: close\r\n%bcontent-length: %d\r\n\r\n"
        return STATUS_LINE[self.status] + head % (retry, len(body)) + body


def too_much_head(limits: ConnectionLimits) -> HttpRefusal:
    """The refusal of more headers, trailers or chunk extensions than are allowed."""
    count, size = limits.head_count, limits.head_bytes
    text = f"the request has more than {count} headers or trailers, or more than {size} bytes of them"
    return HttpRefusal(431, "headers_too_large", text)


def check_head(version: str, method: bytes, headers: Headers) -> None:
    """Refuse a head that does not say who is asked, or how the body is framed, in one way only.

    Raises:
        Refusal: What is wrong.
    """
    if method == b"CONNECT" or version not in ("1.1", "1.0"):
        raise _malformed("this is no proxy, and speaks HTTP/1.1")
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) != 1 and (hosts or version == "1.1"):
        raise _malformed(f"the request has {len(hosts) or 'no'} Host headers; exactly one is needed")
    if hosts and not _HOST.fullmatch(hosts[0]):
        raise _malformed("the header Host is not a name or an address, with or without a port")
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    if codings and version == "1.0":
        raise _malformed("HTTP/1.0 has no Transfer-Encoding")
    if codings and (len(codings) > 1 or codings[0].lower() != b"chunked"):
        text = "the Transfer-Encoding must be chunked; compressed bodies are named by Content-Encoding"
        raise HttpRefusal(501, "unsupported_transfer_encoding", text)


def _malformed(text: str) -> HttpRefusal:
    return HttpRefusal(400, "malformed_request", text)


def plain_head(method: bytes, url: bytes, version: str, headers: Headers) -> bytes:
    """The head of the same request without its wish for another protocol."""
    lines = [b"%b %b HTTP/%b" % (method, url, version.encode())]
    for name, value in headers:
        if name == b"connection":
            value = b", ".join(word for word in _words(value) if word.lower() not in _UPGRADING)
        if name not in _UPGRADING:
            lines.append(b"%b: %b" % (name, value))
    return b"\r\n".join([*lines, b"", b""])


def _words(value: bytes) -> list[bytes]:
    return [word.strip() for word in value.split(b",")]


def encoding_of(value: bytes) -> bool:
    """Return whether a ``Content-Encoding`` means gzip.

    Raises:
        UnsupportedEncodingError: It is another one.
    """
    name = value.strip().lower()
    if name in (b"", b"identity"):
        return False
    if name in (b"gzip", b"x-gzip"):
        return True
    shown = name.decode("latin-1")[:100]
    raise UnsupportedEncodingError(
        f"the Content-Encoding {shown!r} is not supported; allowed: {ENCODINGS}, or none",
        param="content-encoding",
    )


async def decompressed(raw: bytes, limit: int) -> bytes:
    """Decompress a gzip body.

    Raises:
        PayloadTooLargeError: More than ``limit`` bytes, or more than text can be compressed.
        InvalidRequestError: It is no gzip, or ends too early.
    """
    members, out = _Members(), bytearray()
    most = min(limit, max(_FREE, _RATIO * len(raw)))
    for at in range(0, len(raw), _STEP):
        members.rest = raw[at : at + _STEP]
        while part := members.next():
            out += part
            if len(out) > most:
                raise PayloadTooLargeError(
                    f"the body is larger than {most} bytes, once it is no longer compressed"
                )
            await asyncio.sleep(0)
    if not members.whole:
        raise InvalidRequestError("the gzip body is cut off")
    return bytes(out)


class _Members:
    """The members of a gzip file, one after the other; most have one."""

    def __init__(self) -> None:
        self.rest = b""
        self._stream = zlib.decompressobj(_GZIP)
        self._left = _MEMBERS

    @property
    def whole(self) -> bool:
        """``True`` if the last one is complete."""
        return self._stream.eof

    def next(self) -> bytes:
        """The next part of what :attr:`rest` gives; empty when there is no more in it."""
        while True:
            if self._stream.eof and not self._another():
                return b""
            try:
                part = self._stream.decompress(self.rest, _STEP)
            except zlib.error:
                raise InvalidRequestError("the body is not gzip, as its Content-Encoding says") from None
            self.rest = self._stream.unconsumed_tail
            if part or not self._stream.eof:
                return part

    def _another(self) -> bool:
        self.rest = (self._stream.unused_data or self.rest).lstrip(b"\0")  # padding
        if not self.rest:
            return False
        self._left -= 1
        if self._left < 0:
            raise InvalidRequestError("the gzip body has too many members")
        self._stream = zlib.decompressobj(_GZIP)
        return True


async def read_body(receive: Receive, headers: Iterable[tuple[bytes, bytes]], limit: int) -> bytes:
    """Read a whole body, and decompress it.

    Args:
        receive: The ASGI channel.
        headers: Raw headers, names in lower case.
        limit: The most bytes that are kept, of what came and of what that holds.

    Raises:
        PayloadTooLargeError: There is more; known from ``Content-Length``, or while reading.
        UnsupportedEncodingError: It is compressed in another way than gzip.
        InvalidRequestError: ``Content-Length`` is no number, or the body is no gzip.
        ClientDisconnect: The client left.
    """
    known = dict(headers)
    compressed = encoding_of(known.get(b"content-encoding", b""))
    length = _content_length(known.get(b"content-length", b"0"))
    if length > limit and (b"expect" in known or length > limit * _READ_ON):
        raise _too_large(limit)
    chunks: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect()
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
        elif size > limit * _READ_ON:
            raise _too_large(limit)
        more = message.get("more_body", False)
    if size > limit:
        raise _too_large(limit)
    body = b"".join(chunks)
    return await decompressed(body, limit) if compressed else body


def _content_length(value: bytes) -> int:
    if not value.isdigit():
        raise InvalidRequestError("the header Content-Length is not a number")
    return int(value)


def _too_large(limit: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(f"the body is larger than the {limit} bytes that are allowed")
