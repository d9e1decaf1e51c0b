"""Messages as they come off the queue, checked, and those of them that are not acknowledged.

Anybody may push anything onto a Redis list: 680 kB of gzip can stand for gigabytes, so that compressed bodies are
unpacked up to a bound. What an endpoint is sent is plain data, in which kombu's marks
(``{"__type__": "base64", "__value__": …}``) stand for bytes alone. Whatever else looks like a mark is a client's own
object: it stays as it is, and is no reason to refuse the rest.

kombu notes and acknowledges one message at a time, and waits for Redis each time. On a worker's loop, what was
popped together is noted in one step, and what is done meanwhile is acknowledged in one step.
"""

from __future__ import annotations

import bz2
import contextlib
import json
import lzma
import time
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from kombu.transport.virtual import QoS as VirtualQoS
from kombu.utils.json import dumps, object_hook

from dynamo_tasks.errors import ServerRefusedError
from dynamo_tasks.queue import greenlets
from dynamo_tasks.queue.broker.envelope import HEADER

__all__ = [
    "MAX_MESSAGE",
    "MAX_UNPACKED",
    "BrokerMessage",
    "MalformedMessageError",
    "QoS",
    "decode",
    "inflate",
    "read_plain",
]

_MOST_DICTIONARY = 128 << 20
"""Memory that lzma's decoder may ask for; its strongest preset needs half of it."""


def _lzma() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(memlimit=_MOST_DICTIONARY)


_KINDS: dict[str, Callable[[], Any]] = {
    **dict.fromkeys(("application/x-gzip", "gzip", "zlib"), zlib.decompressobj),
    **dict.fromkeys(("application/x-bz2", "bzip2", "bzip"), bz2.BZ2Decompressor),
    **dict.fromkeys(("application/x-lzma", "lzma", "xz"), _lzma),
}
"""By the names of kombu; those of its other codecs have no bound."""


def inflate(body: bytes, compression: object, most: int) -> bytes:
    """Unpack a body.

    Args:
        body: As it was sent.
        compression: The message's header of that name.
        most: Bytes that it may become.

    Raises:
        ValueError: an unknown compression, broken data, or more than ``most`` bytes.
    """
    make = _KINDS.get(compression) if isinstance(compression, str) else None
    if make is None:
        raise ValueError(f"compression {str(compression)[:50]!r} is not taken: gzip, bzip2 and lzma are")
    decompressor = make()
    try:
        found: bytes = decompressor.decompress(body, most)
    except (zlib.error, lzma.LZMAError, OSError, EOFError) as exc:
        raise ValueError(f"the body is no {compression}: {exc}") from exc
    if not decompressor.eof:
        raise ValueError(f"the unpacked body has more than {most} bytes, or is not whole")
    return found


_MARK = {"__type__", "__value__"}
_BYTES = ("base64", "bytes")


def read_plain(body: bytes | str) -> Any:
    """JSON, with its bytes.

    Raises:
        ValueError: it is no JSON.
    """
    return json.loads(body, object_hook=_plain)


def _plain(found: dict[str, Any]) -> Any:
    if found.keys() != _MARK or found["__type__"] not in _BYTES or not isinstance(found["__value__"], str):
        return found
    try:
        return object_hook(found)
    except ValueError:  # no base64
        return found


MAX_MESSAGE = 64 << 20
"""Most bytes of a message."""
MAX_UNPACKED = 32 << 20
"""Most bytes that a compressed body may become."""
_LARGE, _MOST_CONTAINERS = 1 << 20, 2 << 20
"""Bytes of a body from which on its arrays and objects are counted: two bytes of JSON become 64 of memory."""
_COMPRESSION, _JSON = "compression", "application/json"
_TEXT = frozenset({None, "", "utf-8", "utf8", "us-ascii", "ascii", "binary", "ascii-8bit"})
"""Encodings of bodies. Python knows others that unpack (``zlib_codec``, ``bz2_codec``), without a bound."""
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class MalformedMessageError(ValueError):
    """An entry of a queue is no Celery message."""


def decode(raw: bytes) -> dict[str, Any]:
    """The message of a queue's entry.

    Raises:
        MalformedMessageError: it is no JSON object, or too large.
    """
    if len(raw) > MAX_MESSAGE:
        raise MalformedMessageError(f"it has {len(raw)} bytes, more than {MAX_MESSAGE}")
    try:
        return _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise MalformedMessageError(str(exc)) from None


class BrokerMessage(virtual.Message):  # type: ignore[misc]
    """kombu's message; what it takes for granted is checked.

    Raises:
        MalformedMessageError: properties, delivery information or headers are missing or of a wrong type; or the body
            is compressed, and cannot be unpacked within bounds.
    """

    def __init__(self, payload: dict[str, Any], channel: Any = None, **kwargs: Any):
        try:
            headers = payload.get("headers")
            if payload.get("content-encoding") not in _TEXT:
                raise ValueError("the body is in an encoding that is not taken: utf-8 is")
            packed = isinstance(headers, dict) and _COMPRESSION in headers
            super().__init__(_unpacked(payload, channel) if packed else payload, channel=channel, **kwargs)
            self._raw = payload  # as it goes back to its queue
            # kombu reads both without a check: a KeyError shall come here.
            self.delivery_info["exchange"], self.delivery_info["routing_key"]
            _check_parts(self)
        except MalformedMessageError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError) as exc:
            raise MalformedMessageError(f"{type(exc).__name__}: {exc}") from None

    def _decode(self) -> Any:
        """Read the body: of an endpoint's message, plain data."""
        if HEADER in self.headers and self.content_type == _JSON:
            try:
                return read_plain(self.body)
            except (ValueError, TypeError, RecursionError):
                pass  # kombu says what is wrong with it
        return super()._decode()


def _check_parts(message: Any) -> None:
    if message.body and len(message.body) > _LARGE:
        _check_width(message.body)
    if not isinstance(message.headers, dict) or not isinstance(message.delivery_tag, str):
        raise MalformedMessageError("headers are no object, or the delivery tag is no text")
    # Part of keys and answers: what cannot be must not come as far as a request that then can't end.
    if "id" in message.headers and not (message.headers["id"] and isinstance(message.headers["id"], str)):
        raise MalformedMessageError("the task's id is no text")


def _check_width(body: Any) -> None:
    """Refuse JSON that is small as text and large in memory."""
    data = body if isinstance(body, bytes) else str(body).encode(errors="replace")
    if data.count(b"[") + data.count(b"{") > _MOST_CONTAINERS:
        raise MalformedMessageError(f"the body has more than {_MOST_CONTAINERS} arrays and objects")


def _unpacked(payload: dict[str, Any], channel: Any) -> dict[str, Any]:
    """The message as it would be without compression."""
    headers, properties = dict(payload["headers"]), dict(payload["properties"])
    compression = headers.pop(_COMPRESSION)
    if not compression:
        return {**payload, "headers": headers}
    body = channel.decode_body(payload.get("body") or "", properties.pop("body_encoding", None))
    data = body.encode() if isinstance(body, str) else body
    return {
        **payload,
        "headers": headers,
        "properties": properties,
        "body": inflate(data, compression, MAX_UNPACKED),
    }


class QoS(kombu_redis.QoS):  # type: ignore[misc]
    """Unacknowledged messages; those with a ledger record need no note in Redis."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._noted: set[str] = set()

    def note(self, messages: list[dict[str, Any]]) -> list[str]:
        """Note messages that were popped together, in one step; returns their tags."""
        tags = [message["properties"]["delivery_tag"] for message in messages]
        with self.pipe_or_acquire() as pipe:
            for tag, message in zip(tags, messages, strict=True):
                info = message["properties"]["delivery_info"]
                pipe.zadd(self.unacked_index_key, {tag: time.time()})
                pipe.hset(self.unacked_key, tag, dumps([message, info["exchange"], info["routing_key"]]))
            pipe.execute()
        self._noted.update(tags)
        return tags

    def append(self, message: Any, delivery_tag: str) -> None:
        """A message was delivered."""
        if HEADER in message.headers or delivery_tag in self._noted:
            self._noted.discard(delivery_tag)
            VirtualQoS.append(self, message, delivery_tag)
            return
        try:
            super().append(message, delivery_tag)
        except ServerRefusedError:
            # It runs without a note: Redis takes none, and would not take the message back either.
            VirtualQoS.append(self, message, delivery_tag)

    def _tracked(self, delivery_tag: str) -> bool:
        message = self._delivered.get(delivery_tag)
        return message is not None and HEADER in message.headers

    def ack(self, delivery_tag: str) -> None:
        """A message is done."""
        if self._tracked(delivery_tag):
            VirtualQoS.ack(self, delivery_tag)
        else:
            self._untracked(super().ack, delivery_tag, False)

    def _untracked(self, settle: Callable[[str], None], delivery_tag: str, requeue: bool) -> None:
        """Settle a message that has a note in Redis: now, or later where Redis is away or refuses.

        On a loop always later: with all others that are done by then.
        """
        if self.channel.closed or (greenlets.on_loop() and not requeue):
            VirtualQoS.ack(self, delivery_tag)
            self.channel.acknowledged_late(delivery_tag, requeue)
            return
        try:
            settle(delivery_tag)
        except ServerRefusedError:
            VirtualQoS.ack(self, delivery_tag)
            self.channel.acknowledged_late(delivery_tag, requeue)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """A message is not wanted; with ``requeue`` it goes to the front of its queue."""
        if not self._tracked(delivery_tag):
            self._untracked(partial(super().reject, requeue=requeue), delivery_tag, requeue)
            return
        if requeue and not self.channel.closed:
            self.channel.requeue([delivery_tag])
        else:
            VirtualQoS.ack(self, delivery_tag)

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Restore what was taken long ago; where Redis refuses the lock for that, the next time."""
        with contextlib.suppress(ServerRefusedError):
            super().restore_visible(*args, **kwargs)
