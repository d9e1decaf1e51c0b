"""Presence of client processes that read streams: their subscriptions."""

from __future__ import annotations

from dynamo_tasks.store.ledger.scripts import script
from dynamo_tasks.store.redis.containment import contained
from dynamo_tasks.store.redis.server import Store

__all__ = ["ReaderPresence"]


class ReaderPresence:
    """Finds client processes that died without leaving, and leaves for them.

    A client is dead when its channel has no subscriber in two checks in a row.
    """

    def __init__(self, store: Store):
        self._store = store
        self._suspects: dict[str, set[str]] = {}

    async def check(self, namespace: str) -> list[str]:
        """Look once; returns the ids of requests that lost a reader."""
        keys = self._store.keys(namespace)
        commands = self._store.commands
        listed = await commands.execute("SMEMBERS", keys.clients)
        channels = [channel.decode(errors="replace") for channel in listed]
        if not channels:
            return []
        counts = await commands.execute("PUBSUB", "NUMSUB", *channels)
        absent = {
            channel.decode(errors="replace")
            for channel, n in zip(counts[::2], counts[1::2], strict=True)
            if n == 0
        }
        # Twice: a client that reconnects is absent for a moment, too.
        dead = absent & self._suspects.get(namespace, set())
        self._suspects[namespace] = absent - dead
        left: list[str] = []
        for channel in dead:
            with contained("ledger", channel):
                left += await self._reap(namespace, channel)
        return left

    async def _reap(self, namespace: str, channel: str) -> list[str]:
        keys = self._store.keys(namespace)
        commands = self._store.commands
        listed = await commands.execute("SMEMBERS", keys.reads(channel))
        ids = [request_id.decode(errors="replace") for request_id in listed]
        for request_id in ids:
            with contained("ledger", request_id):
                await script("detach").run(
                    commands, [keys.record(request_id)], base=keys.base, db=self._store.address.db, reader=channel,
                    saw_end=0,
                )  # fmt: skip
        await commands.execute("SREM", keys.clients, channel)
        return ids
