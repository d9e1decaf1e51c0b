"""Verbs of recovery: what may own requests, what a dead instance held, what was lost from a queue."""

from __future__ import annotations

import msgspec

from dynamo_tasks.errors import WorkerLostError
from dynamo_tasks.protocol.events import End, ErrorInfo
from dynamo_tasks.protocol.states import State
from dynamo_tasks.store.base import Store
from dynamo_tasks.store.keys import PRIORITY_STEPS, Keys, consumer_name, priority_suffix
from dynamo_tasks.store.scripts import script

__all__ = ["MAX_ATTEMPTS", "MAX_BARREN", "Recovery"]

MAX_BARREN = 3
"""Attempts that added no token, after which a request has FAILED."""
MAX_ATTEMPTS = 10
"""Attempts at all."""
_LOCK_MS = 5000
_ORPHAN_AGE_MS = 2000


class Recovery:
    """Recovery of one server's namespaces. Every verb may be called by any number of observers."""

    def __init__(self, store: Store):
        self._store = store

    async def owners(self, namespace: str) -> list[int]:
        """Lease ids of all instances that may own requests."""
        found = await self._store.commands.execute("SMEMBERS", self._store.keys(namespace).leases)
        return sorted(int(lease, 16) for lease in found)

    async def owned(self, namespace: str, lease: int) -> set[str]:
        """Ids of the requests that an instance owns, as the server knows it."""
        found = await self._store.commands.execute("SMEMBERS", self._store.keys(namespace).owned(lease))
        return {request_id.decode() for request_id in found}

    async def sightings(self, namespace: str, leases: list[int]) -> list[tuple[str | None, bool]]:
        """Counter and presence of each instance."""
        keys = self._store.keys(namespace)
        wire = await self._store.commands.wire()
        counters, counts = await wire.pipeline(
            [
                ["MGET", *(keys.lease(lease) for lease in leases)],
                ["PUBSUB", "NUMSUB", *(keys.alive_channel(lease) for lease in leases)],
            ]
        )
        return [
            (counter.decode() if counter is not None else None, int(n) > 0)
            for counter, n in zip(counters, counts[1::2], strict=True)
        ]

    async def take_over(self, namespace: str, lease: int, observer: str) -> dict[str, int] | None:
        """Give back everything that a dead instance held.

        Args:
            namespace: Its namespace.
            lease: Its lease.
            observer: Who does it; one at a time.

        Returns:
            How many requests were ``requeued``, ``dead`` and sent again to ``settle``, and messages
            ``restored``; ``None`` where another observer is at it.
        """
        keys = self._store.keys(namespace)
        lock = f"{keys.base}recover:{lease:x}"
        if not await self._store.commands.execute("SET", lock, observer, "NX", "PX", _LOCK_MS):
            return None
        await self._cut(lease)
        moved = {"requeued": 0, "dead": 0, "settle": 0, "restored": 0}
        for raw in await self._store.commands.execute("SMEMBERS", keys.owned(lease)):
            outcome = await self.requeue(namespace, raw.decode(), lease)
            name = {"OK": "requeued", "DEAD": "dead", "SETTLE": "settle"}.get(outcome)
            if name is not None:
                moved[name] += 1
        moved["restored"] = await self._inherit(keys, lease)
        await self._bury(keys, lease)
        await self._store.commands.execute("DEL", lock)
        return moved

    async def _cut(self, lease: int) -> None:
        """Close the connections on which it waits for messages: they would be popped into a frozen process."""
        wire = await self._store.commands.wire()
        listed: bytes = await wire.execute("CLIENT", "LIST", "TYPE", "NORMAL")
        name = f"name={consumer_name(lease)}"
        rows = [row.split() for row in listed.decode().splitlines()]
        ids = [row[0].removeprefix("id=") for row in rows if name in row]
        if ids:
            await wire.pipeline([["CLIENT", "KILL", "ID", client_id] for client_id in ids])

    async def requeue(self, namespace: str, request_id: str, lease: int) -> str:
        """Give back one request of a lost owner. Returns ``OK``, ``DEAD``, ``SETTLE`` or ``NOT``."""
        keys = self._store.keys(namespace)
        error = ErrorInfo.of(WorkerLostError(f"the request lost its worker {MAX_BARREN} times"))
        end = End(State.FAILED, "worker_lost", error=error)
        reply = await script("requeue").run(
            self._store.commands, [keys.record(request_id), keys.log(request_id)], keys.base, request_id,
            f"{lease:x}", self._store.address.db, MAX_BARREN, MAX_ATTEMPTS, end.encode(), msgspec.json.encode(error),
        )  # fmt: skip
        return str(reply.decode())

    async def _inherit(self, keys: Keys, lease: int) -> int:
        """Messages in the queues of the instance itself."""
        members = [m.decode() for m in await self._store.commands.execute("SMEMBERS", keys.instances)]
        moved = 0
        for component, endpoint, owner in (member.split(":") for member in members):
            if int(owner, 16) != lease:
                continue
            shared = f"{keys.prefix}{keys.namespace}|{component}"
            for step in PRIORITY_STEPS:
                suffix = priority_suffix(step)
                moved += await script("inherit").run(
                    self._store.commands,
                    [f"{shared}.{endpoint}-{lease:x}{suffix}", shared + suffix],
                    keys.base,
                )
        return moved

    async def _bury(self, keys: Keys, lease: int) -> None:
        """Take its registrations back."""
        commands = self._store.commands
        members = [m.decode() for m in await commands.execute("SMEMBERS", keys.instances)]
        own = [member for member in members if member.rsplit(":", 1)[1] == f"{lease:x}"]
        if own:
            await commands.execute("DEL", *(keys.registration(member) for member in own))
            await commands.execute("SREM", keys.instances, *own)
        await commands.execute("SREM", keys.leases, f"{lease:x}")
        await commands.execute("DEL", keys.lease(lease), keys.load(lease))
        await commands.execute("PUBLISH", keys.registry_channel, f"-{lease:x}")

    async def lost_messages(self, namespace: str, suspects: set[str], limit: int = 100) -> set[str]:
        """Find QUEUED requests whose message is gone; those that were suspects before are sent again.

        Returns:
            The suspects for the next call, at least two seconds later.
        """
        keys = self._store.keys(namespace)
        now = await self._store.commands.execute("TIME")
        latest = int(now[0]) * 1000 - _ORPHAN_AGE_MS
        ids = await self._store.commands.execute(
            "ZRANGE", keys.queued, "-inf", latest, "BYSCORE", "LIMIT", 0, limit
        )
        found: set[str] = set()
        for request_id in (raw.decode() for raw in ids):
            reply = await script("orphan").run(
                self._store.commands, [keys.record(request_id), keys.log(request_id)], keys.base, request_id,
                int(request_id in suspects),
            )  # fmt: skip
            if reply == b"LOST":
                found.add(request_id)
        return found
