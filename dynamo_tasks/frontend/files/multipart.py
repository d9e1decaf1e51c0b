"""Forms with files (``multipart/form-data``), read as they come: no more is held than one chunk of a body brings."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

from msgspec import Struct
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from dynamo_tasks.engines.text.threads import offload
from dynamo_tasks.errors import InvalidRequestError, PayloadTooLargeError

__all__ = ["Form", "PartBegin", "PartData", "PartEnd", "boundary_of", "read_form"]

logging.getLogger("python_multipart").setLevel(logging.ERROR)
# It warns of forms that are none: any client could fill the log. The client is told.

_MOST_PARTS = 16
_MOST_HEADERS, _MOST_HEADER = 8, 4096
_STEP = 64 << 10
"""Bytes of a body that are parsed at a time."""
_OVERHEAD = 64 << 10
"""Bytes that a form may have beside its file."""


class PartBegin(Struct, frozen=True):
    """A field or a file begins.

    Attributes:
        name: Of the field.
        filename: As the client sent it; ``None`` where it is no file.
    """

    name: str
    filename: str | None


class PartData(Struct, frozen=True):
    """Some bytes of it."""

    data: bytes


class PartEnd(Struct, frozen=True):
    """It is whole."""


Item = PartBegin | PartData | PartEnd


def boundary_of(content_type: str) -> bytes:
    """The boundary that a ``Content-Type`` names.

    Raises:
        InvalidRequestError: It is of another kind, or names none.
    """
    kind, options = parse_options_header(content_type[:1000])
    if kind != b"multipart/form-data":
        raise InvalidRequestError(
            "the body must be a form with a file (Content-Type: multipart/form-data)", param="content-type"
        )
    boundary = options.get(b"boundary", b"")
    if not 0 < len(boundary) <= 70:
        raise InvalidRequestError("the Content-Type names no boundary of 1 to 70 bytes", param="content-type")
    return boundary


class Form:
    """The parts of one form, pushed in as bytes."""

    def __init__(self, boundary: bytes):
        self._items: list[Item] = []
        self._headers: dict[bytes, bytes] = {}
        self._field = self._value = b""
        self._parts = 0
        self.ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._headers.clear,
                "on_header_field": self._on_field,
                "on_header_value": self._on_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers,
                "on_part_data": self._on_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
            max_header_count=_MOST_HEADERS,
            max_header_size=_MOST_HEADER,
        )

    def feed(self, data: bytes) -> list[Item]:
        """Read some bytes; returns what became known.

        Raises:
            InvalidRequestError: They are no form.
        """
        self._items = []
        try:
            self._parser.write(data)
        except FormParserError as exc:
            raise InvalidRequestError(
                f"the body is not a form, as its Content-Type says: {exc}"[:300]
            ) from None
        return self._items

    def _on_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[self._field.lower()] = self._value
        self._field = self._value = b""

    def _on_headers(self) -> None:
        self._parts += 1
        if self._parts > _MOST_PARTS:
            raise InvalidRequestError(f"the form has more than {_MOST_PARTS} parts")
        kind, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if kind != b"form-data" or b"name" not in options:
            raise InvalidRequestError(
                "a part of the form has no name (Content-Disposition: form-data; name=…)"
            )
        filename = options.get(b"filename")
        self._items.append(PartBegin(_text(options[b"name"]), None if filename is None else _text(filename)))

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        self._items.append(PartData(data[start:end]))

    def _on_part_end(self) -> None:
        self._items.append(PartEnd())

    def _on_end(self) -> None:
        self.ended = True


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


async def read_form(receive: Receive, headers: dict[bytes, bytes], most: int) -> AsyncIterator[Item]:
    """Read the body of a request as a form.

    Args:
        receive: The ASGI channel.
        headers: Of the request, names in lower case.
        most: Bytes that its file may have.

    Raises:
        PayloadTooLargeError: It has more.
        InvalidRequestError: It is no form, or ends too early.
        ClientDisconnect: The client left.
    """
    form = Form(boundary_of(headers.get(b"content-type", b"").decode("latin-1")))
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or int(length) > most + _OVERHEAD:
        raise _too_large(most)
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect()
        body: bytes = message.get("body", b"")
        size += len(body)
        if size > most + _OVERHEAD:
            raise _too_large(most)
        for at in range(0, len(body), _STEP):
            step = body[at : at + _STEP]
            for item in await offload(len(step), form.feed, step):
                yield item
        more = message.get("more_body", False)
    if not form.ended:
        raise InvalidRequestError("the form is cut off")


def _too_large(most: int) -> PayloadTooLargeError:
    return PayloadTooLargeError(f"a file may have {most} bytes at most", param="file")
