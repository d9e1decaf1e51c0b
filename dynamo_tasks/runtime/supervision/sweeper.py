"""The sweeper of a live process: moves due messages, ends abandoned and overdue requests, erases purged ones.

Every step is one script that takes its work from Redis atomically, so any number of sweepers may
run side by side.
"""

from __future__ import annotations

import asyncio

from dynamo_tasks.errors import DeadlineExceededError, DynamoError
from dynamo_tasks.observe import metrics
from dynamo_tasks.protocol.events import End, ErrorInfo
from dynamo_tasks.protocol.jitter import jittered
from dynamo_tasks.protocol.states import State
from dynamo_tasks.runtime.supervision.actor import Actor
from dynamo_tasks.store.ledger.ledger import Ledger, cancelled
from dynamo_tasks.store.redis.containment import contained
from dynamo_tasks.store.redis.server import Store
from dynamo_tasks.store.streams.presence import ReaderPresence

__all__ = ["Sweeper"]

_EVERY = 0.2
_NAMESPACES_EVERY = 2.0
_SELDOM_EVERY = 1.0


class Sweeper(Actor):
    """The actor; one per process that serves.

    Args:
        store: The Redis server.
        erases: Whether this process takes messages of purged requests from queues: frontends have no right to
            (docs/security.md).
    """

    name = "sweeper"

    def __init__(self, store: Store, *, erases: bool = True):
        self._store = store
        self._erases = erases
        self._ledger = Ledger(store)
        self._readers = ReaderPresence(store)
        self._namespaces: list[str] = []

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        namespaces_at = seldom_at = 0.0
        while True:
            try:
                if loop.time() >= namespaces_at:
                    self._namespaces = await self._store.namespaces()
                    namespaces_at = loop.time() + _NAMESPACES_EVERY
                for namespace in self._namespaces:
                    with contained("ledger", f"timers of {namespace}"):
                        await self.due(namespace)
                    with contained("ledger", f"wait queues of {namespace}"):
                        await self._ledger.upkeep.admit(namespace)
                if loop.time() >= seldom_at:
                    for namespace in self._namespaces:
                        await self._seldom(namespace)
                    seldom_at = loop.time() + _SELDOM_EVERY
            except DynamoError:
                await asyncio.sleep(_EVERY)
            await asyncio.sleep(jittered(_EVERY, 0.8, 1.2))

    async def _seldom(self, namespace: str) -> None:
        with contained("ledger", f"readers of {namespace}"):
            await self._readers.check(namespace)
        if self._erases:
            with contained("ledger", f"purged requests of {namespace}"):
                await self._ledger.upkeep.erase(namespace)

    async def due(self, namespace: str) -> None:
        """Act on the timers of a namespace that are due: move messages, end requests."""
        for kind, request_id in await self._ledger.upkeep.due(namespace):
            with contained("ledger", request_id):
                if kind == "a":
                    await self._abandon(namespace, request_id)
                else:
                    await self._overdue(namespace, request_id)

    async def _abandon(self, namespace: str, request_id: str) -> None:
        # Asked again inside of the script: a reader may have come since the timer was due.
        end = cancelled("abandoned", "nobody read the request any more")
        if await self._ledger.cancel(namespace, request_id, end=end, guard="unread") == "OK":
            metrics.counter("sweeper_moves_total", kind="abandoned").inc()

    async def _overdue(self, namespace: str, request_id: str) -> None:
        """Expire a request that is still queued; end one past its deadline that its owner did not end."""
        if await self._ledger.expire(namespace, request_id, "its time passed in the queue") == "RUNNING":
            # Its owner would have, at the deadline: it hangs, or is frozen.
            error = DeadlineExceededError("the request ran past its deadline")
            end = End(State.FAILED, "deadline", error=ErrorInfo.of(error))
            await self._ledger.cancel(namespace, request_id, end=end, guard="due")
