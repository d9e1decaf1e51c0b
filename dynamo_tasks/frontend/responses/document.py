"""Items that are kept beside the record of a stored response: its input, and the context that came before it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct

from dynamo_tasks.errors import ProtocolError
from dynamo_tasks.protocol.events import UNREADABLE

__all__ = ["MOST_BYTES", "Document", "size_of", "usable"]

MOST_BYTES = 16 << 20
"""Of all that is kept of one: each response keeps a copy of what came before it."""


class Document(Struct, array_like=True):
    """The items of a response's request, the oldest first; plain objects.

    Attributes:
        items: Those that it brought.
        context: Those before: of the responses or the conversation that it follows. It is a copy: a response can be
            followed when those before it are long deleted.
    """

    items: list[dict[str, Any]] = []
    context: list[dict[str, Any]] = []

    def encode(self) -> bytes:
        """Encode as msgpack."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Document:
        """Decode from msgpack; of nothing, an empty one.

        Raises:
            ProtocolError: it is something else.
        """
        if not data:
            return cls()
        try:
            return _decode(data)
        except UNREADABLE as exc:
            raise ProtocolError(f"what is kept of a response's request cannot be read: {exc}") from exc


_decode = msgspec.msgpack.Decoder(Document).decode


def size_of(items: Iterable[dict[str, Any]]) -> int:
    """Count the characters of the texts of items."""
    found = 0
    for item in items:
        for value in item.values():
            if isinstance(value, str):
                found += len(value)
            elif isinstance(value, list):
                found += sum(len(text) for part in value for text in part.values() if isinstance(text, str))
    return found


def usable(output: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Items of an answer without a call that was cut off: nobody can have answered it."""
    return [item for item in output if item["type"] != "function_call" or item["status"] == "completed"]
