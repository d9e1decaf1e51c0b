"""Reading request bodies within a limit: as they come, or as gzip, in steps that leave the event loop its turns."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterable

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from dynamo_tasks.errors import InvalidRequestError, PayloadTooLargeError, UnsupportedEncodingError

__all__ = ["ENCODINGS", "decompressed", "encoding_of", "read_body"]

ENCODINGS = "gzip"
"""The coding that ``Content-Encoding`` may name, for ``Accept-Encoding`` of a refusal."""
_STEP = 128 << 10
"""Bytes that come out between two turns of the loop: a fraction of a millisecond."""
_RATIO, _FREE = 200, 1 << 20
"""Text is compressed 3 to 20 times; beyond the first MiB, more than 200 times is no text."""
_MEMBERS = 1000
_GZIP = 16 + zlib.MAX_WBITS


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


# A client that is cut off while it uploads sees a broken connection instead of the answer. So what is
# a little too large is read to its end and thrown away.
_DRAIN_FACTOR = 8


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
    if length > limit and (b"expect" in known or length > limit * _DRAIN_FACTOR):
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
        elif size > limit * _DRAIN_FACTOR:
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
