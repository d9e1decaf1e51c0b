"""Encoding of an endpoint's result as JSON, or an error that says why it is none."""

from __future__ import annotations

from typing import Any

import msgspec

from dynamo_tasks.protocol.events import End
from dynamo_tasks.protocol.plain import NOT_PLAIN
from dynamo_tasks.sdk.endpoints.payloads import not_plain

__all__ = ["encode_result"]


def encode_result(endpoint: str, end: End, result: Any) -> bytes:
    """The result that the record keeps, as JSON; empty without one.

    Args:
        endpoint: Its address, for the error.
        end: How the request will end; it must be writable, too.
        result: The value, aggregate or list of values, plain; ``None`` where nobody wants it.

    Raises:
        EndpointError: one of them cannot be written: half of a surrogate pair, a number of more than 64 bits.
    """
    try:
        end.encode()
        return msgspec.json.encode(result) if result is not None else b""
    except NOT_PLAIN as exc:
        value = end.values[0] if end.values else result
        raise not_plain(endpoint, value, exc, streams=False) from exc
