"""Framing: the beginning and the end of a request on its connection, and the limits of a connection.

What two readers of the same bytes could understand in two ways is refused (request smuggling, RFC 9112 section 11):
httptools refuses most of it, :func:`check_head` the rest. An ``Upgrade`` is not followed, so its request is an ordinary
one with an ordinary body, whatever the parser thinks (:func:`plain_head`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec
from msgspec import Struct
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.frontend.http.errors import error_payload

__all__ = ["ConnectionLimits", "Headers", "HttpRefusal", "check_head", "plain_head", "too_much_head"]

Headers = Sequence[tuple[bytes, bytes]]

_HOST = re.compile(rb"(?:[A-Za-z0-9._~%!$&'()*+;=-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
_UPGRADING = frozenset({b"upgrade", b"http2-settings"})


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
