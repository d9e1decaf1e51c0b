"""Events of a stream.

A request's stream is a Redis Stream. Its ids are ``<epoch>-<seq>``: the epoch belongs to one attempt
and only grows, ``<epoch>-0`` is that attempt's claim. Each entry has one field; its name is the
kind of the event, its value the payload:

====  ========  ==========================================================================
kind  meaning   payload
====  ========  ==========================================================================
k     claim     text ``<previous id>|<attempt>|<lease hex>``
c     values    msgpack array of the values that the endpoint yielded
t     tokens    msgpack array of token deltas (see :mod:`dynamo_tasks.protocol.tokens`)
e     end       msgpack :class:`End`
====  ========  ==========================================================================

The same events are pushed to reading clients as one msgpack array of
``[request id, event id, kind, payload]`` per message.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

from dynamo_tasks.errors import (
    DynamoError,
    EndpointError,
    InvalidEventIdError,
    ProtocolError,
    RequestCancelledError,
    RequestExpiredError,
    RequestFailedError,
    error_for_code,
)
from dynamo_tasks.protocol.states import State

__all__ = [
    "IGNORED",
    "UNREADABLE",
    "ZERO",
    "Claim",
    "End",
    "ErrorInfo",
    "Event",
    "EventId",
    "Kind",
    "decode_pushed",
    "decode_values",
]

IGNORED = "ignored"
"""The finish reason of a request whose endpoint raised Celery's ``Ignore``: it has no answer."""
UNREADABLE = (msgspec.DecodeError, ValueError, RecursionError)
"""The errors of msgspec, ``int()`` and ``bytes.decode()`` over bytes that are something else."""
_LARGE, _MOST_CONTAINERS = 1 << 20, 8 << 20
_HEADS = bytes(range(0x80, 0xA0))
"""The heads of msgpack's small maps and arrays: one byte that becomes 64 of memory."""
_MAPS = {*range(0x80, 0x90), 0xDE, 0xDF}
_COUNTS = {0xDC: 3, 0xDD: 5, 0xDE: 3, 0xDF: 5}
"""The offset at which the number of items ends, by msgpack's heads of larger lists and objects."""
_PIECE, _PIECE_ITEM = 1 << 17, 64
"""Bytes that are read at once: 2 ms; and what an item has at least that is worth being read by itself."""
_NOTHING = msgspec.Raw(b"\xc0")
_TOP = 2**64 - 1
_FORM = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")
"""Of an id: two numbers of as many digits as the largest one of 64 bit has."""


class EventId(NamedTuple):
    """Id of an event, ordered as Redis orders it."""

    epoch: int
    seq: int

    @classmethod
    def parse(cls, text: str) -> EventId:
        """Parse ``<epoch>-<seq>``.

        Raises:
            InvalidEventIdError: not two non-negative integers of 64 bit, which Redis takes.
        """
        if found := _FORM.fullmatch(text):
            epoch, seq = int(found[1]), int(found[2])
            if epoch <= _TOP and seq <= _TOP:
                return tuple.__new__(cls, (epoch, seq))
        raise InvalidEventIdError(f"event id {text[:100]!r} is not <epoch>-<seq>, e.g. 1763790000000-57")

    def __str__(self) -> str:
        return f"{self.epoch}-{self.seq}"


ZERO = EventId(0, 0)
"""Before the first event."""


class Kind(StrEnum):
    """Kind of an event: the field name of its stream entry."""

    CLAIM = "k"
    VALUES = "c"
    TOKENS = "t"
    END = "e"


class Event(NamedTuple):
    """One entry of a stream, payload not decoded yet."""

    id: EventId
    kind: str
    data: bytes


class Claim(NamedTuple):
    """The beginning of an attempt; ``previous`` is the id of the event it follows."""

    previous: EventId
    attempt: int
    lease: int

    @classmethod
    def decode(cls, data: bytes) -> Claim:
        """Read the payload of a ``k`` event.

        Raises:
            ProtocolError: it is something else.
        """
        try:
            previous, attempt, lease, *_ = data.decode().split("|")
            return cls(EventId.parse(previous), int(attempt), int(lease, 16))
        except UNREADABLE as exc:
            raise ProtocolError(f"a claim in a stream cannot be read: {exc}") from exc

    def encode(self) -> bytes:
        """Write the payload of a ``k`` event."""
        return f"{self.previous}|{self.attempt}|{self.lease:x}".encode()


class ErrorInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error as it crosses a process: ``code`` of :mod:`dynamo_tasks.errors`, text, original type."""

    code: str
    message: str
    type: str = ""
    param: str | None = None

    @classmethod
    def of(cls, exc: BaseException) -> ErrorInfo:
        """Describe an exception."""
        if isinstance(exc, DynamoError):
            return cls(exc.code, _text(exc.message), type(exc).__name__, exc.param)
        return cls(EndpointError.code, _text(f"{type(exc).__name__}: {exc}"), type(exc).__name__)

    def exception(self) -> DynamoError:
        """The exception that a reader raises."""
        return error_for_code(self.code, self.message, param=self.param)


class End(msgspec.Struct, frozen=True, omit_defaults=True):
    """The end of a request.

    Attributes:
        state: A terminal :class:`~dynamo_tasks.protocol.states.State`.
        finish_reason: ``stop``, ``length``, … of the text, or why it was ended (``cancelled``,
            ``abandoned``, ``deadline``); ``None`` where it has no meaning.
        usage: ``{"prompt_tokens", "completion_tokens", "cached_tokens"}`` of LLM endpoints.
        error: Set when the state is not SUCCEEDED.
        values: The return value of endpoints that are no generators, as a list of one.
        previous: Where somebody else than the owner ended it: id of the event that this one follows.
        at: When its endpoint was done, Unix seconds by the clock of its owner; 0 = not said.
    """

    state: State
    finish_reason: str | None = None
    usage: dict[str, int] | None = None
    error: ErrorInfo | None = None
    values: list[Any] | None = None
    previous: str | None = None
    at: int = 0

    @classmethod
    def decode(cls, data: bytes) -> End:
        """Read the payload of an ``e`` event.

        Raises:
            ProtocolError: it is something else.
        """
        try:
            return _decode_end(data)
        except UNREADABLE as exc:
            raise ProtocolError(f"the end of a stream cannot be read: {exc}") from exc

    @classmethod
    def decode_in_parts(cls, data: bytes) -> End:
        """Decode as :meth:`decode`, a large value in pieces: in a thread, each lets the loop have its turn.

        Raises:
            ProtocolError: it is something else.
        """
        if len(data) <= _PIECE:
            return cls.decode(data)
        try:
            fields = msgspec.msgpack.decode(data, type=dict[str, msgspec.Raw])
            values = msgspec.msgpack.decode(fields.pop("values", _NOTHING), type=list[msgspec.Raw] | None)
        except UNREADABLE as exc:
            raise ProtocolError(f"the end of a stream cannot be read: {exc}") from exc
        end = cls.decode(_encode(fields))
        return msgspec.structs.replace(end, values=values and [_in_parts(value) for value in values])

    def encode(self) -> bytes:
        """Write the payload of an ``e`` event."""
        return _encode(self)

    def failure(self) -> DynamoError | None:
        """The error that a caller gets who wants the whole answer; ``None`` if the request succeeded."""
        if self.error is not None:
            return self.error.exception()
        if self.finish_reason == IGNORED:
            return EndpointError(
                "the endpoint ignored the request (celery.exceptions.Ignore): there is no answer"
            )
        if self.state == State.CANCELLED:
            return RequestCancelledError()
        if self.state == State.EXPIRED:
            return RequestExpiredError()
        return RequestFailedError() if self.state == State.FAILED else None

    def raise_for_state(self) -> None:
        """Raise what the request ended with, if it did not succeed."""
        if self.error is not None:
            raise self.error.exception()


def _text(message: str) -> str:
    """A message that can be encoded: one may quote half of a surrogate pair."""
    return message.encode(errors="replace").decode()


def _in_parts(raw: msgspec.Raw, levels: int = 3) -> Any:
    """A value whose large lists and objects are read item by item, down to so many levels.

    Raises:
        ProtocolError: it cannot be read.
    """
    decode, seen = msgspec.msgpack.decode, memoryview(raw)
    try:
        if len(seen) <= _PIECE or not levels or len(seen) < _PIECE_ITEM * _items(seen):
            return decode(raw)
        if seen[0] in _MAPS:
            found = decode(raw, type=dict[Any, msgspec.Raw])
            return {name: _in_parts(item, levels - 1) for name, item in found.items()}
        items = decode(raw, type=list[msgspec.Raw])
    except UNREADABLE as exc:
        raise ProtocolError(f"the end of a stream cannot be read: {exc}") from exc
    return [_in_parts(item, levels - 1) for item in items]


def _items(seen: memoryview) -> int:
    """Count the items of a list or an object; for what is neither, gives more than there could be."""
    if 0x80 <= seen[0] < 0xA0:
        return seen[0] & 0x0F
    return int.from_bytes(seen[1 : _COUNTS[seen[0]]]) if seen[0] in _COUNTS else len(seen)


def decode_values(data: bytes) -> list[Any]:
    """The values of a ``c`` event.

    Raises:
        ProtocolError: they are something else.
    """
    # Counted before it is read: a MiB of empty lists becomes 64 MiB of objects.
    if len(data) > _LARGE and _containers(data) > _MOST_CONTAINERS:
        raise ProtocolError(f"values in a stream have more than {_MOST_CONTAINERS} arrays and maps")
    try:
        return _decode_values(data)
    except UNREADABLE as exc:
        raise ProtocolError(f"values in a stream cannot be read: {exc}") from exc


def _containers(data: bytes) -> int:
    """An upper bound of the arrays and maps: the bytes that may be heads of small ones, text among them."""
    return len(data) - len(data.translate(None, _HEADS))


def decode_pushed(data: bytes) -> list[tuple[str, Event]]:
    """The events of one pushed message, each with the id of its request.

    Raises:
        ProtocolError: it is something else.
    """
    try:
        rows = _decode_pushed(data)
        return [
            (request, Event(EventId.parse(event), kind, payload)) for request, event, kind, payload in rows
        ]
    except UNREADABLE as exc:
        raise ProtocolError(f"a pushed message cannot be read: {exc}") from exc


_encode = msgspec.msgpack.Encoder().encode
_decode_values = msgspec.msgpack.Decoder(list[Any]).decode
_decode_pushed = msgspec.msgpack.Decoder(list[tuple[str, str, str, bytes]]).decode
_decode_end = msgspec.msgpack.Decoder(End).decode
