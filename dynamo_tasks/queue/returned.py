"""What an endpoint returned, on its way out of the process: JSON, or an error that says why it is none."""

from __future__ import annotations

from typing import Any

import msgspec

from dynamo_tasks.protocol.events import End

__all__ = ["encode_result"]

_HINTS = {
    "coroutine": "; write `async def`, or await it",
    "generator": "; an endpoint that streams has `yield` itself",
    "async_generator": "; an endpoint that streams has `yield` itself",
}


def encode_result(endpoint: str, end: End, result: Any) -> bytes:
    """The result that the record keeps, as JSON; empty without one.

    Args:
        endpoint: Its address, for the error.
        end: How the request will end; it must be writable, too.
        result: The value, aggregate or list of values; ``None`` where nobody wants it.

    Raises:
        TypeError: one of them cannot be written.
    """
    try:
        end.encode()
        return msgspec.json.encode(result) if result is not None else b""
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        value = end.values[0] if end.values else result
        kind = type(value).__name__
        hint = _HINTS.get(kind, "")
        raise TypeError(f"{endpoint} returned {kind}, which is no JSON value ({exc}){hint}") from exc
