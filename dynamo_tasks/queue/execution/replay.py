"""Values that earlier attempts at a request have put out: read from its log, and not put out again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from dynamo_tasks.protocol.events import Kind, decode_values
from dynamo_tasks.protocol.tokens import decode_deltas
from dynamo_tasks.store.ledger.ledger import Attempt
from dynamo_tasks.store.redis.server import Store
from dynamo_tasks.store.streams.at_rest import read_all
from dynamo_tasks.store.streams.log import ENTRY_BYTES

__all__ = ["logged_values", "skip"]


async def logged_values(store: Store, attempt: Attempt) -> tuple[list[Any], int]:
    """Values that earlier attempts logged, and the bytes that they take in the stream."""
    out: list[Any] = []
    size = 0
    for entry in await read_all(store, attempt.namespace, attempt.id):
        size += len(entry.data) + ENTRY_BYTES
        if entry.kind == Kind.TOKENS:
            out += decode_deltas(entry.data)
        elif entry.kind == Kind.VALUES:
            out += decode_values(entry.data)
    return out, size


async def skip(values: AsyncIterator[Any], count: int) -> AsyncIterator[Any]:
    """All but the first ``count`` values."""
    async with aclosing(values) as source:  # type: ignore[type-var]
        async for value in source:
            if count > 0:
                count -= 1
            else:
                yield value
