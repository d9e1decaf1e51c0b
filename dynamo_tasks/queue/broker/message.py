"""A message as it comes off the queue, checked: anybody may push anything onto a Redis list."""

from __future__ import annotations

from typing import Any

import msgspec
from kombu.transport import virtual

from dynamo_tasks.queue.broker.envelope import HEADER
from dynamo_tasks.queue.broker.inflate import inflate
from dynamo_tasks.queue.marks import read_plain

__all__ = ["MAX_MESSAGE", "MAX_UNPACKED", "MalformedMessageError", "Message", "decode"]

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


class Message(virtual.Message):  # type: ignore[misc]
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
