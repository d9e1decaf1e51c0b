"""The batches that the live page shows: all open ones, and those that ended last."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from dynamo_tasks.errors import ObjectNotFoundError
from dynamo_tasks.frontend.batches.records import (
    BATCH,
    ENDED,
    ENDED_BATCH,
    OPEN_BATCH,
    SYSTEM,
    BatchRecord,
    shown_batch,
)
from dynamo_tasks.store.objects import ANYBODY, Objects
from dynamo_tasks.store.redis.containment import contained

__all__ = ["BatchBoard"]

_MOST = 50
"""Batches that are shown, open and ended ones each; of all keys together."""


class BatchBoard:
    """Batches of all keys in a namespace.

    Args:
        objects: Where they are known.
    """

    def __init__(self, objects: Objects):
        self._objects = objects
        self._ended: dict[str, dict[str, Any]] = {}

    async def rows(self) -> list[dict[str, Any]]:
        """A row for each, the newest first; with the ``owner_key``, without texts of lines or metadata.

        Raises:
            ServerUnavailableError: Redis cannot be reached.
        """
        pages = [await self._objects.page(kind, SYSTEM, limit=_MOST) for kind in (OPEN_BATCH, ENDED_BATCH)]
        ids = {entry.id: None for page in pages for entry in page.objects}
        # One that has ended stays as it is: it is read once, and the page of a quiet deployment costs nothing.
        kept = {batch_id: row for batch_id, row in self._ended.items() if batch_id in ids}
        read = await asyncio.gather(*(self._row(batch_id) for batch_id in ids if batch_id not in kept))
        found = kept | {row["id"]: row for row in read if row is not None}
        self._ended = {batch_id: row for batch_id, row in found.items() if row["status"] in ENDED}
        return sorted(found.values(), key=lambda row: row["created"], reverse=True)

    async def _row(self, batch_id: str) -> dict[str, Any] | None:
        """One of them; ``None`` for one that is not there yet, or not any more, or cannot be read."""
        with suppress(ObjectNotFoundError), contained("objects", f"batch {batch_id}"):
            return _row(await self._objects.get(BATCH, batch_id, ANYBODY))
        return None


def _row(batch: BatchRecord) -> dict[str, Any]:
    shown, data = shown_batch(batch), batch.data
    return {
        "id": batch.id,
        "owner_key": batch.owner,
        "status": data.status,
        "endpoint": shown["endpoint"],
        "model": data.model,
        "created": batch.created,
        "expires": shown["expires_at"],
        "ended": shown.get(f"{data.status}_at") if data.status in ENDED else None,
        "total": data.total,
        "completed": data.completed,
        "failed": data.failed,
        "tokens": shown["usage"]["output_tokens"],
        "mistakes": [{"code": one.code, "line": one.line} for one in data.mistakes[:3]],
    }
