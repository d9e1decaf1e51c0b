"""A message as it comes off the queue, checked: anybody may push anything onto a Redis list."""

from __future__ import annotations

from typing import Any

import msgspec
from kombu.transport import virtual

__all__ = ["MalformedMessageError", "Message", "decode"]

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class MalformedMessageError(ValueError):
    """What was taken from the queue is no Celery message."""


def decode(raw: bytes) -> dict[str, Any]:
    """The message of a queue's entry.

    Raises:
        MalformedMessageError: it is no JSON object.
    """
    try:
        return _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise MalformedMessageError(str(exc)) from None


class Message(virtual.Message):  # type: ignore[misc]
    """kombu's message; what it takes for granted is checked.

    Raises:
        MalformedMessageError: properties, delivery information or headers are missing or of a wrong type.
    """

    def __init__(self, payload: dict[str, Any], channel: Any = None, **kwargs: Any):
        try:
            super().__init__(payload, channel=channel, **kwargs)
            self.delivery_info["exchange"], self.delivery_info["routing_key"]
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise MalformedMessageError(f"{type(exc).__name__}: {exc}") from None
        if not isinstance(self.headers, dict) or not isinstance(self.delivery_tag, str):
            raise MalformedMessageError("headers are no object, or the delivery tag is no text")
