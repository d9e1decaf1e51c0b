"""Reading request bodies within a limit."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from dynamo_tasks.errors import InvalidRequestError, PayloadTooLargeError
from dynamo_tasks.frontend.http.compressed import decompressed, encoding_of

__all__ = ["read_body"]

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
