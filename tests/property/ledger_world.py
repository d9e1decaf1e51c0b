"""What the ledger's state machine acts on: a namespace of its own on a real server, as clients of it see it.

What is real: the server, every script, and the verbs that call them (``Ledger``, ``Recovery``, ``Registry``,
``DeadList``, ``ReaderPresence``, ``Sweeper``). What is simulated: the processes, that is what each of them holds and
believes (``ledger_processes.py``); and the scripts' clock, so that hours can pass within a step.
"""

from __future__ import annotations

import json
from typing import Any

import redis

from dynamo_tasks.errors import IdempotencyConflictError
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.store.ledger.ledger import Ledger
from dynamo_tasks.store.ledger.recovery import Recovery
from dynamo_tasks.store.ledger.scripts import script
from dynamo_tasks.store.redis.server import Store
from dynamo_tasks.store.registry import Registry
from tests.property.ledger_invariants import Dump, History, check, read_dump
from tests.property.ledger_parts import CLOCK, START, Instance, clock
from tests.support.records import by_word
from tests.support.streams import new_request

__all__ = ["World"]


class World:
    """One namespace: its server, its clients, and who runs there."""

    def __init__(self, client: redis.Redis, store: Store, namespace: str):
        self.client, self.store, self.namespace = client, store, namespace
        self.keys = store.keys(namespace)
        self.ledger, self.recovery, self.registry = Ledger(store), Recovery(store), Registry(store)
        self.worker = EndpointId(namespace, "Worker", "generate")
        self.router = EndpointId(namespace, "Router", "generate")
        self.instances: list[Instance] = []
        self.lost: list[int] = []
        """Leases of the killed that nobody has reaped yet."""
        self.history = History()
        self.repeated: set[str] = set()
        """Requests of which somebody delivered a message once more."""
        client.set(CLOCK, START)
        clock.client = client

    @property
    def now(self) -> int:
        """The scripts' clock, ms."""
        return int(self.client.get(CLOCK) or 0)

    def passes(self, ms: int) -> None:
        """Time goes by."""
        self.client.incrby(CLOCK, ms)

    def message(self, request_id: str, endpoint: EndpointId, retries: int = 0, tracked: bool = True) -> bytes:
        """What stands for the Celery message."""
        return json.dumps(
            {"id": request_id, "endpoint": str(endpoint), "retries": retries, "tracked": tracked}
        ).encode()

    async def submit(self, request_id: str, endpoint: EndpointId, **more: Any) -> str | None:
        """Queue a request; the id that stands for it, ``None`` if the key belongs to another payload."""
        new = new_request(
            id=request_id, endpoint=endpoint, queue=endpoint.queue, message=self.message(request_id, endpoint), **more
        )  # fmt: skip
        known = await self.record(request_id)
        try:
            stands = await self.ledger.submit(new)
        except IdempotencyConflictError:
            return None
        if not known and stands == request_id:
            self.history.submitted(request_id, keeps=not new.options.ignore_result, read=bool(new.reader))
        elif new.reader and stands == request_id:
            self.history.read.add(request_id)
        return stands

    async def attach(self, request_id: str, channel: str) -> bool:
        """A client process begins to read."""
        reply = await script("attach").run(
            self.store.commands,
            self.pair(request_id),
            base=self.keys.base,
            id=request_id,
            db=0,
            reader=channel,
            only_owner=0,
            owner_key="",
            after_epoch=0,
            after_seq=0,
        )
        noted = bool(reply) and reply[5] == b"1"
        if noted:
            self.history.read.add(request_id)
        return noted

    async def detach(self, request_id: str, channel: str, saw_end: bool) -> None:
        """It has no reader of this request any more."""
        await script("detach").run(
            self.store.commands,
            self.pair(request_id)[:1],
            base=self.keys.base,
            db=0,
            reader=channel,
            saw_end=int(saw_end),
        )

    def pair(self, request_id: str) -> list[str]:
        """Keys of a request."""
        return [self.keys.record(request_id), self.keys.stream(request_id)]

    async def record(self, request_id: str) -> dict[str, str]:
        """The record, by the words of its fields."""
        raw = await self.store.commands.execute("HGETALL", self.keys.record(request_id))
        return by_word({k.decode(): v.decode() for k, v in zip(raw[::2], raw[1::2], strict=True)})

    def shared(self, record: dict[str, str]) -> str:
        """The queue of the component of a request."""
        return EndpointId.parse(record["endpoint"]).queue

    async def log(self, request_id: str) -> list[tuple[str, str, bytes]]:
        """The raw log."""
        rows = await self.store.commands.execute("XRANGE", self.keys.stream(request_id), "-", "+")
        return [(row[0].decode(), row[1][0].decode(), row[1][1]) for row in rows]

    def verify(self) -> Dump:
        """Look at everything; raises ``AssertionError`` where an invariant does not hold."""
        dump = read_dump(self.client, self.keys)
        alive = {one.lease for one in self.instances}
        check(dump, self.history, alive=alive)
        return dump

    def erase(self) -> None:
        """Nothing is left on the server."""
        found = [
            *self.client.scan_iter(f"dt:{self.namespace}:*"),
            *self.client.scan_iter(f"{self.namespace}|*"),
        ]
        if found:
            self.client.delete(*found)
        self.client.srem("dt:@namespaces", self.namespace)
