"""Verbs of recovery: what may own requests, what a dead instance held, what was lost from a queue."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from dynamo_tasks.errors import WorkerLostError
from dynamo_tasks.observe.log import event
from dynamo_tasks.protocol.events import End, ErrorInfo
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.protocol.states import State
from dynamo_tasks.store.keys import Keys
from dynamo_tasks.store.ledger.notifications import notify_end
from dynamo_tasks.store.ledger.scripts import script
from dynamo_tasks.store.ledger.unacked import restore_unacked
from dynamo_tasks.store.queue_keys import PRIORITY_STEPS, consumer_name, priority_suffix
from dynamo_tasks.store.redis.containment import contained
from dynamo_tasks.store.redis.server import Store

__all__ = ["MAX_ATTEMPTS", "MAX_IDLE_ATTEMPTS", "Recovery"]

MAX_IDLE_ATTEMPTS = 3
"""Attempts that added no token, after which a request has FAILED."""
MAX_ATTEMPTS = 10
"""Attempts at all."""
_REQUEUED = {"OK": "requeued", "DEAD": "dead", "SETTLE": "settle"}
_LOCK_MS = 5000
_ORPHAN_AGE_MS = 2000


class Recovery:
    """Recovery of one server's namespaces. Every verb may be called by any number of observers.

    Args:
        store: Redis.
        cuts: Whether this process closes connections of the dead: frontends have no right to (docs/security.md). What a
            frozen process is handed then is found by :meth:`lost_messages`.
    """

    def __init__(self, store: Store, *, cuts: bool = True):
        self._store = store
        self._cuts = cuts
        self._offsets: dict[str, int] = {}

    async def owners(self, namespace: str) -> list[int]:
        """Lease ids of all instances that may own requests."""
        found = await self._store.commands.execute("SMEMBERS", self._store.keys(namespace).leases)
        leases: list[int] = []
        for lease in found:
            with contained("registry", f"a lease of {namespace}"):
                leases.append(int(lease, 16))
        return sorted(leases)

    async def owned(self, namespace: str, lease: int) -> set[str]:
        """Ids of the requests that an instance owns, as Redis knows it."""
        found = await self._store.commands.execute("SMEMBERS", self._store.keys(namespace).owned(lease))
        return {request_id.decode(errors="replace") for request_id in found}

    async def sightings(self, namespace: str, leases: list[int]) -> list[tuple[str | None, bool]]:
        """Counter and presence of each instance."""
        keys = self._store.keys(namespace)
        wire = await self._store.commands.wire()
        counters, counts = await wire.ask(
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
        """Requeue everything that a dead instance held.

        Args:
            namespace: Its namespace.
            lease: Its lease.
            observer: Who does it; one at a time.

        Returns:
            How many requests were ``requeued``, ``dead`` and sent again to ``settle``, and messages
            ``restored``; ``None`` where another observer is at it.
        """
        keys = self._store.keys(namespace)
        # It saves the others the work. What holds does not rest on it: each step below may be done twice.
        lock = f"{keys.base}recover:{lease:x}"
        if not await self._store.commands.execute("SET", lock, observer, "NX", "PX", _LOCK_MS):
            return None
        if self._cuts:  # first: else a frozen process is handed what is requeued below
            await self._cut(lease)
        moved = {"requeued": 0, "dead": 0, "settle": 0, "restored": 0}
        with contained("recovery", f"what {lease:x} owned"):
            await self._requeue_all(keys, lease, moved)
        with contained("recovery", f"what {lease:x} had fetched"):
            moved["restored"] += await restore_unacked(self._store, keys, lease)
        with contained("recovery", f"queues of {lease:x}"):
            moved["restored"] += await self._reassign(keys, lease)
        # Last: by its lease the next observer finds it, if this one dies before it is through.
        await self._reap(keys, lease)
        await self._store.commands.execute("DEL", lock)
        return moved

    async def _requeue_all(self, keys: Keys, lease: int, moved: dict[str, int]) -> None:
        for raw in await self._store.commands.execute("SMEMBERS", keys.owned(lease)):
            with contained("recovery", raw.decode(errors="replace")):
                outcome = await self.requeue(keys.namespace, raw.decode(), lease)
                if outcome in _REQUEUED:
                    moved[_REQUEUED[outcome]] += 1

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
        """Requeue one request of a lost owner. Returns ``OK``, ``DEAD``, ``SETTLE`` or ``NOT``."""
        keys = self._store.keys(namespace)
        reply = await script("requeue").run(
            self._store.commands, [keys.record(request_id), keys.stream(request_id)], base=keys.base, id=request_id,
            lease=f"{lease:x}", db=self._store.address.db, most_idle=MAX_IDLE_ATTEMPTS, most_attempts=MAX_ATTEMPTS,
            **_lost("idle", MAX_IDLE_ATTEMPTS), **_lost("attempts", MAX_ATTEMPTS),
        )  # fmt: skip
        outcome = str(reply.decode())
        if outcome == "DEAD":  # nobody runs it any more who would count its end
            await notify_end(self._store, namespace, request_id, End(State.FAILED, "worker_lost"))
        if outcome in _REQUEUED:
            event(
                "request.requeued", request_id=request_id, namespace=namespace, lost_instance=f"{lease:x}",
                outcome=_REQUEUED[outcome],
            )  # fmt: skip
        return outcome

    async def _reassign(self, keys: Keys, lease: int) -> int:
        """Messages in the queues of a dead instance."""
        # Not its registrations: they may be gone by their TTL before its death is certain.
        members = await self._store.commands.execute("SMEMBERS", keys.own_queues(lease))
        endpoints: list[EndpointId] = []
        for member in members:
            with contained("registry", f"a queue of {lease:x}"):
                endpoints.append(EndpointId(keys.namespace, *member.decode().split(":")))
        return await self.reassign(endpoints, lease)

    async def reassign(self, endpoints: Iterable[EndpointId], lease: int) -> int:
        """Move what waits in an instance's own queues to its components' queues.

        Args:
            endpoints: What it served.
            lease: Its lease.

        Returns:
            Number of messages.
        """
        moved = 0
        for endpoint in endpoints:
            keys = self._store.keys(endpoint.namespace)
            own, shared = keys.prefix + endpoint.instance_queue(lease), keys.prefix + endpoint.queue
            # List by list: a message keeps its priority.
            for suffix in map(priority_suffix, PRIORITY_STEPS):
                lists = [own + suffix, shared + suffix]
                moved += await script("reassign").run(
                    self._store.commands,
                    lists,
                    base=keys.base,
                    own_queue=own,
                    shared=shared,
                    component=endpoint.component,
                )
        return moved

    async def _reap(self, keys: Keys, lease: int) -> None:
        """Take its registrations back."""
        commands = self._store.commands
        members = [m.decode(errors="replace") for m in await commands.execute("SMEMBERS", keys.instances)]
        own = [member for member in members if member.rpartition(":")[2] == f"{lease:x}"]
        if own:
            await commands.execute("DEL", *(keys.registration(member) for member in own))
            await commands.execute("SREM", keys.instances, *own)
        await commands.execute("SREM", keys.leases, f"{lease:x}")
        await commands.execute("DEL", keys.lease(lease), keys.load(lease), keys.own_queues(lease))
        await commands.execute("PUBLISH", keys.registry_channel, f"-{lease:x}")

    async def lost_messages(
        self, namespace: str, suspects: set[str], limit: int = 200
    ) -> tuple[set[str], int]:
        """Find QUEUED requests whose message is gone; those that were suspects before are sent again.

        Looks at the suspects and at the next ``limit`` requests: round after round at all of them.

        Returns:
            The suspects for the next call, at least two seconds later, and how many messages were sent again.
        """
        keys = self._store.keys(namespace)
        # Between its pop and its claim a message is in no queue either: only what is missed twice is lost.
        found: set[str] = set()
        sent = 0
        for request_id in suspects | await self._waiting(keys, limit):
            with contained("recovery", request_id):
                reply = await script("lost_message").run(
                    self._store.commands, [keys.record(request_id), keys.stream(request_id)], base=keys.base,
                    id=request_id, republish=int(request_id in suspects),
                )  # fmt: skip
                sent += reply == b"OK"
                if reply == b"LOST":
                    found.add(request_id)
        return found, sent

    async def _waiting(self, keys: Keys, limit: int) -> set[str]:
        """The next ids of those that wait for longer than a message takes from a queue to its claim."""
        now = await self._store.commands.execute("TIME")
        latest = int(now[0]) * 1000 - _ORPHAN_AGE_MS
        offset = self._offsets.get(keys.namespace, 0)
        ids = await self._store.commands.execute(
            "ZRANGE", keys.queued, "-inf", latest, "BYSCORE", "LIMIT", offset, limit
        )
        self._offsets[keys.namespace] = offset + limit if len(ids) == limit else 0
        return {raw.decode(errors="replace") for raw in ids}


def _lost(which: str, times: int) -> dict[str, bytes]:
    """The end event, and the error as JSON, of a request that lost its worker too often."""
    error = ErrorInfo.of(WorkerLostError(f"the request lost its worker {times} times"))
    end = End(State.FAILED, "worker_lost", error=error)
    return {f"{which}_data": end.encode(), f"{which}_error": msgspec.json.encode(error)}
