"""Documents: what an API keeps beside the record of a request, for as long as that.

A document is a hash of its own, so that nobody reads it with the record: ``given`` with the request, and what was
``made`` of its stream. It comes with ``submit``, gets its end with the request's, and goes with ``purge``.
"""

from __future__ import annotations

from dynamo_tasks.store.ledger.scripts import script
from dynamo_tasks.store.redis.server import Store

__all__ = ["Documents"]


class Documents:
    """The documents of all requests on one server.

    Args:
        store: Redis.
    """

    def __init__(self, store: Store):
        self._store = store

    async def read(self, namespace: str, request_id: str, part: str = "given") -> bytes:
        """Read a part of a document; empty where there is none (any more).

        Args:
            namespace: Where the request lives.
            request_id: Its id.
            part: ``given`` or ``made``.
        """
        key = self._store.keys(namespace).document(request_id)
        return await self._store.commands.execute("HGET", key, part) or b""

    async def keep(self, namespace: str, request_id: str, made: bytes, retention: float) -> None:
        """Keep what was made of a stream that has ended; the stream goes after so many seconds."""
        keys = self._store.keys(namespace)
        await script("keep").run(
            self._store.commands, [keys.record(request_id), keys.stream(request_id)], base=keys.base, id=request_id,
            made=made, retention=int(retention * 1000),
        )  # fmt: skip
