"""Upkeep of the ledger: what is due, what may be promoted, and what clients have had erased."""

from __future__ import annotations

from dynamo_tasks.store.ledger.scripts import script
from dynamo_tasks.store.redis.server import Store

__all__ = ["Upkeep"]


class Upkeep:
    """Verbs that no attempt needs: of sweepers, and of who purges. All of them are safe to repeat."""

    def __init__(self, store: Store):
        self._store = store

    async def due(self, namespace: str, limit: int = 200) -> list[tuple[str, str]]:
        """Move due messages to their queues; returns due ``("a" | "d", id)`` timers for the caller to act on."""
        keys = self._store.keys(namespace)
        found = await script("due").run(self._store.commands, [keys.timers], base=keys.base, count=limit)
        return [(member[:1].decode(), member[2:].decode()) for member in found]

    async def admit(self, namespace: str) -> None:
        """Promote requests from the wait queues where there is room."""
        await script("admit").run(self._store.commands, [], base=self._store.keys(namespace).base)

    async def purge(self, namespace: str, request_id: str, kept: float = 0.0) -> str:
        """Erase payload and stream of an ended request. Returns ``OK``, ``GONE`` or ``ACTIVE``.

        A message of it that lies in a queue yet goes with the next :meth:`erase`, of any worker.

        Args:
            namespace: Where it lives.
            request_id: Its id.
            kept: Seconds for which its bare record stays; 0 = for as long as it would.
        """
        keys = self._store.keys(namespace)
        reply = await script("purge").run(
            self._store.commands, [keys.record(request_id), keys.stream(request_id)], base=keys.base, id=request_id,
            kept=int(kept * 1000),
        )  # fmt: skip
        return str(reply.decode())

    async def erase(self, namespace: str, limit: int = 50, looked_at: int = 4000) -> int:
        """Take messages of purged requests out of their queues; for who may take from queues.

        Args:
            namespace: Where they were purged.
            limit: How many requests at once.
            looked_at: How many messages of usual size one script looks at: others have their turn in between.

        Returns:
            The number of messages.
        """
        keys = self._store.keys(namespace)
        # In portions: while a script looks through a long queue, Redis answers nobody.
        removed, left = 0, 1
        while left:
            found, left = await script("erase").run(
                self._store.commands, [keys.erase, keys.erasing], base=keys.base, most_notes=limit,
                most_messages=looked_at,
            )  # fmt: skip
            removed += int(found)
        return removed
