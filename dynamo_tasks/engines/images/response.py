"""The answer of a server that was asked for an image: read as it comes, within bounds."""

from __future__ import annotations

from typing import Any

import httptools

__all__ = ["ImageResponse"]

_HEADERS = 64 << 10
"""Bytes in front of the body."""
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_KINDS = ("image/", "application/octet-stream", "binary/octet-stream")
"""Content types that may be an image; which it is, its first bytes say."""


class ImageResponse:
    """An HTTP response, fed with bytes.

    Attributes:
        complete: Whether nothing more is wanted of it.
        location: Where it redirects to.
    """

    def __init__(self, most: int) -> None:
        """Begin.

        Args:
            most: Bytes that its body may have.
        """
        self.complete = False
        self.location: str | None = None
        self._most = most
        self._parser: Any = httptools.HttpResponseParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._before = 0
        self._in_body = False
        self._size = 0
        self._body: list[bytes] = []

    def feed(self, data: bytes) -> None:
        """Take what came; nothing = the server has closed.

        Raises:
            ValueError: It is no answer with an image, or too large; says why.
        """
        if not data:
            self._closed()
            return
        if not self._in_body:
            self._before += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            raise (error.__context__ if isinstance(error.__context__, ValueError) else _garbled()) from None
        except httptools.HttpParserError:
            raise _garbled() from None
        if not self._in_body and self._before > _HEADERS:
            raise _garbled()

    def _closed(self) -> None:
        """A body without a length ends here."""
        if not self._in_body or self._headers.keys() & {b"content-length", b"transfer-encoding"}:
            raise ValueError("could not be fetched: the connection was closed early")
        self.complete = True

    def image(self) -> bytes:
        """The body."""
        return b"".join(self._body)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        status = self._parser.get_status_code()
        if status < 200:
            raise _garbled()
        self._in_body = True
        if status in _REDIRECTS:
            self.location = self._headers.get(b"location", b"").decode("latin-1")
            self.complete = True
        elif status != 200:
            raise ValueError(f"could not be fetched: its server answers {status}")
        else:
            self._check()

    def _check(self) -> None:
        kind = self._headers.get(b"content-type", b"image/").decode("latin-1").strip().lower()
        if not kind.startswith(_KINDS):
            raise ValueError(f"is no image: its server says {kind!r:.60}")
        if self._headers.get(b"content-encoding", b"identity").strip().lower() not in (b"identity", b""):
            raise ValueError("could not be fetched: its server compresses it")
        length = self._headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._most:
            raise self._too_large()

    def on_body(self, data: bytes) -> None:
        """Called by the parser."""
        if self.complete:
            return  # of a redirect
        self._size += len(data)
        if self._size > self._most:
            raise self._too_large()
        self._body.append(data)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self.complete = True

    def _too_large(self) -> ValueError:
        return ValueError(f"is longer than the {self._most} bytes that are allowed")


def _garbled() -> ValueError:
    return ValueError("could not be fetched: its server speaks no HTTP")
