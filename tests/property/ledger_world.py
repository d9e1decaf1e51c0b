"""What the ledger's state machine acts on: a namespace of its own on a real server, and processes that are simulated.

What is real: the server, every script, and the verbs that call them (``Ledger``, ``Recovery``, ``Registry``,
``DeadList``, ``ReaderPresence``, ``Sweeper``). What is simulated: the processes, that is what each of them holds and
believes; and the scripts' clock, so that hours can pass within a step.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import msgspec
import redis

from dynamo_tasks.errors import FencedError, IdempotencyConflictError, RequestNotFoundError
from dynamo_tasks.protocol.events import End, ErrorInfo, EventId
from dynamo_tasks.protocol.instances import Load
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.protocol.states import TERMINAL, State
from dynamo_tasks.runtime.sweeper import Sweeper
from dynamo_tasks.store.base import Store
from dynamo_tasks.store.dead import DeadList
from dynamo_tasks.store.forwarding import forward
from dynamo_tasks.store.keys import PRIORITY_STEPS, priority_suffix
from dynamo_tasks.store.ledger import Attempt, ClaimRefused, Ledger, NewRequest
from dynamo_tasks.store.presence import ReaderPresence
from dynamo_tasks.store.recovery import MAX_ATTEMPTS, MAX_BARREN, Recovery
from dynamo_tasks.store.registry import Registry, new_lease
from dynamo_tasks.store.scripts import script
from dynamo_tasks.store.wire import ReplyError
from tests.property.ledger_invariants import (
    Dump,
    History,
    check,
    check_claim,
    check_sweep,
    read_dump,
)
from tests.property.ledger_parts import CLOCK, START, Held, Instance

__all__ = ["World"]


class World:
    """One namespace, three processes, two client processes."""

    def __init__(self, client: redis.Redis, store: Store, namespace: str):
        self.client, self.store, self.namespace = client, store, namespace
        self.keys = store.keys(namespace)
        self.ledger, self.recovery, self.registry = Ledger(store), Recovery(store), Registry(store)
        self.dead_list, self.sweeper = DeadList(store), Sweeper(store)
        self.worker = EndpointId(namespace, "Worker", "generate")
        self.router = EndpointId(namespace, "Router", "generate")
        self.instances: list[Instance] = []
        self.lost: list[int] = []
        self.suspects: set[str] = set()
        self.presence = ReaderPresence(store)
        self.history = History()
        client.set(CLOCK, START)

    @property
    def now(self) -> int:
        """The scripts' clock, ms."""
        return int(self.client.get(CLOCK) or 0)

    def passes(self, ms: int) -> None:
        """Time goes by."""
        self.client.incrby(CLOCK, ms)

    async def boot(self, endpoint: EndpointId) -> Instance:
        """A new process registers."""
        made = Instance(endpoint, new_lease())
        await self.registry.register(self.namespace, made.lease, [made.info])
        return made

    # Clients

    def message(self, request_id: str, endpoint: EndpointId, retries: int = 0, tracked: bool = True) -> bytes:
        """What stands for the Celery message."""
        return json.dumps(
            {"id": request_id, "endpoint": str(endpoint), "retries": retries, "tracked": tracked}
        ).encode()

    async def submit(self, request_id: str, endpoint: EndpointId, **more: Any) -> str | None:
        """Queue a request; the id that stands for it, ``None`` if the key belongs to another payload."""
        new = NewRequest(
            id=request_id, endpoint=endpoint, queue=endpoint.queue, message=self.message(request_id, endpoint), **more
        )  # fmt: skip
        known = await self.record(request_id)
        try:
            stands = await self.ledger.submit(new)
        except IdempotencyConflictError:
            return None
        if not known and stands == request_id:
            self.history.submitted(request_id, keeps=not new.ignore_result, read=bool(new.reader))
        elif new.reader and stands == request_id:
            self.history.read.add(request_id)
        return stands

    async def attach(self, request_id: str, channel: str) -> bool:
        """A client process begins to read."""
        reply = await script("attach").run(
            self.store.commands, self.pair(request_id), self.keys.base, request_id, 0, channel, 0, "", 0, 0
        )
        noted = bool(reply) and reply[5] == b"1"
        if noted:
            self.history.read.add(request_id)
        return noted

    async def detach(self, request_id: str, channel: str, saw_end: bool) -> None:
        """It has no reader of this request any more."""
        await script("detach").run(
            self.store.commands, self.pair(request_id), self.keys.base, request_id, 0, channel, int(saw_end)
        )

    def pair(self, request_id: str) -> list[str]:
        """Keys of a request."""
        return [self.keys.record(request_id), self.keys.log(request_id)]

    async def record(self, request_id: str) -> dict[str, str]:
        """The raw record."""
        raw = await self.store.commands.execute("HGETALL", self.keys.record(request_id))
        return {k.decode(): v.decode() for k, v in zip(raw[::2], raw[1::2], strict=True)}

    # Processes

    async def pop(self, one: Instance, own: bool) -> None:
        """Take a message; nobody knows of it until it is claimed."""
        base = one.endpoint.instance_queue(one.lease) if own else one.endpoint.queue
        for queue in (base + priority_suffix(step) for step in PRIORITY_STEPS):
            raw = await self.store.commands.execute("RPOP", queue)
            if raw is not None:
                one.hand.append({**msgspec.json.decode(raw), "raw": raw})
                return

    async def claim(self, one: Instance, again: bool = False) -> None:
        """Claim what it has in its hand, as an :class:`Execution` does; ``again``: the first reply was lost."""
        if not one.hand:
            return
        told = one.hand.pop(0)
        request_id, nonce = told["id"], f"n{self.history.number()}"
        replies = [await self._ask(one, told, nonce) for _ in range(1 + again)]
        reply = replies[-1]
        if isinstance(replies[0], Attempt):
            same = isinstance(reply, Attempt) and reply.epoch == replies[0].epoch
            assert same, f"a claim asked again is another claim: {reply}"
        if isinstance(reply, Attempt):
            one.held[request_id] = await self._hold(reply, told["retries"])
        elif reply.reason == "UNSETTLED" and request_id not in one.held and request_id not in one.tails:
            one.tails.add(request_id)
        elif reply.reason == "EXPIRED":
            await self.ledger.expire(self.namespace, request_id, "late")
        elif reply.reason == "WAIT":
            await self.ledger.defer(self.namespace, request_id, reply.wait_ms, told["raw"])

    async def _ask(self, one: Instance, told: dict[str, Any], nonce: str) -> Attempt | ClaimRefused:
        before, now = await self.record(told["id"]), self.now
        lease = self.keys.lease(int(before.get("own") or "0", 16))
        alive = bool(await self.store.commands.execute("EXISTS", lease))
        try:
            claimed = await self.ledger.claim(
                one.endpoint, told["id"], one.lease, retries=told["retries"], tracked=told["tracked"],
                queue=one.endpoint.queue, message=told["raw"], nonce=nonce,
            )  # fmt: skip
        except ClaimRefused as refused:
            if refused.reason == "UNSETTLED":
                await self._check_tail(one, told["id"], before)
            return refused
        self.history.claimed(told["id"])
        if before and (before["st"], before.get("non")) != ("RUNNING", claimed.nonce):
            check_claim(before, told["retries"], now, alive, claimed.epoch)
        return claimed

    async def _check_tail(self, one: Instance, request_id: str, before: dict[str, str]) -> None:
        """Celery's tail is run by one process that is known to live, and not behind its end."""
        assert before["set"] == "0", f"6: {request_id} is settled, and its tail runs again"
        for other in self.instances:
            if other is not one and request_id in other.tails and before.get("own") == f"{other.lease:x}":
                alive = await self.store.commands.execute("EXISTS", self.keys.lease(other.lease))
                assert not alive, f"1: two run the tail of {request_id}"

    async def _hold(self, attempt: Attempt, retries: int) -> Held:
        log = await self.log(attempt.id)
        tail = (await self.record(attempt.id)).get("ig") != "1"
        count = sum(kind == "c" for _, kind, _ in log)
        return Held(attempt, EventId(attempt.epoch, 0), count, retries, tail)

    async def log(self, request_id: str) -> list[tuple[str, str, bytes]]:
        """The raw log."""
        rows = await self.store.commands.execute("XRANGE", self.keys.log(request_id), "-", "+")
        return [(row[0].decode(), row[1][0].decode(), row[1][1]) for row in rows]

    async def append(self, one: Instance, request_id: str) -> None:
        """The writer's XADD; refused means to abort."""
        held = one.held[request_id]
        wanted = EventId(held.attempt.epoch, held.top.seq + 1)
        before = await self.record(request_id)
        try:
            reply = await self.store.commands.execute(
                "XADD", self.keys.log(request_id), "NOMKSTREAM", str(wanted), "c", str(held.values)
            )
        except ReplyError:
            reply = None
        mine = before.get("ep") == str(held.attempt.epoch) and before.get("st") not in TERMINAL
        assert (reply is not None) == mine, f"{before}: an attempt of epoch {wanted.epoch} wrote: {reply}"
        if reply is None:
            await self._aborted(one, request_id)
            return
        held.top, held.values = wanted, held.values + 1

    async def _aborted(self, one: Instance, request_id: str) -> None:
        """Fenced. Of what somebody else ended, Celery's tail is still its own."""
        held = one.held.pop(request_id)
        record = await self.record(request_id)
        if record.get("st") not in TERMINAL or not held.tail or record.get("set") == "1":
            return
        if record["st"] == "CANCELLED":
            one.tails.add(request_id)
            return
        told = {"id": request_id, "retries": held.retries, "tracked": True, "raw": b""}
        reply = await self._ask(one, told, f"n{self.history.number()}")
        if isinstance(reply, ClaimRefused) and reply.reason == "UNSETTLED":
            one.tails.add(request_id)

    async def finish(self, one: Instance, request_id: str, good: bool, again: bool) -> None:
        """Its last event; ``again``: the first reply was lost."""
        held = one.held[request_id]
        before = await self.record(request_id)
        end = End(State.SUCCEEDED, "stop") if good else _failed()
        for _ in range(1 + again):
            reply = await self.ledger.finish(
                held.attempt, top=held.top, end=end, result=b"1", settled=not held.tail
            )
        owns = (before.get("st"), before.get("own")) == ("RUNNING", f"{one.lease:x}")
        mine = owns and before["ep"] == str(held.attempt.epoch)
        assert reply == ("OK" if mine else reply), before
        assert (reply == "OK") == mine, f"{before}: finish answered {reply}"
        if reply != "OK":
            await self._aborted(one, request_id)
            return
        del one.held[request_id]
        if held.tail:
            one.tails.add(request_id)

    async def settle(self, one: Instance, request_id: str) -> None:
        """Celery's tail is done."""
        one.tails.discard(request_id)
        await self.ledger.settle(self.namespace, request_id)

    async def resync(self, one: Instance, request_id: str) -> None:
        """The writer's connection was lost: what does the server know?"""
        attempt = one.held[request_id].attempt
        before = await self.record(request_id)
        reply = await script("resync").run(
            self.store.commands, self.pair(request_id), self.keys.base, request_id, f"{attempt.lease:x}",
            attempt.epoch, attempt.nonce, attempt.number, str(attempt.previous), 0, self.store.namespaces_key,
            self.namespace, *attempt.fields, "rd", "",
        )  # fmt: skip
        mine = before.get("st") == "RUNNING" and before.get("non") == attempt.nonce
        assert (reply[0] == b"OK") == mine, f"{before}: resync answered {reply}"
        if mine:
            assert reply[1].decode() == str(one.held[request_id].top)
        else:
            await self._aborted(one, request_id)

    async def release(
        self, one: Instance, request_id: str, *, retry: bool, wait_ms: int, again: bool
    ) -> None:
        """Celery's retry, or a hand-over at drain."""
        held = one.held.pop(request_id)
        retries = held.retries + 1 if retry else held.retries
        message = self.message(request_id, one.endpoint, retries) if retry else b""
        for _ in range(1 + again):
            with contextlib.suppress(FencedError):
                await self.ledger.release(
                    held.attempt, retries=retries, message=message, front=not retry, counts=retry,
                    not_before=(self.now + wait_ms) / 1000 if retry and wait_ms else 0.0,
                )  # fmt: skip

    async def forward(self, one: Instance, request_id: str, target: Instance, again: bool) -> None:
        """A router hands it on."""
        held = one.held.pop(request_id)
        message = self.message(request_id, target.endpoint, held.retries)
        for _ in range(1 + again):
            await forward(self.store, held.attempt, target.endpoint, target.lease, message)

    async def kill(self, n: int) -> None:
        """``kill -9``; another process is started in its place. Its lease lives until somebody sees it."""
        dead = self.instances[n]
        self.lost.append(dead.lease)
        self.instances[n] = await self.boot(dead.endpoint)

    async def lapse(self, lease: int) -> None:
        """It hangs for longer than its lease."""
        info = [one.info for one in self.instances if one.lease == lease]
        keys = [self.keys.registration(f"{i.component}:{i.endpoint}:{lease:x}") for i in info]
        await self.store.commands.execute("DEL", self.keys.lease(lease), self.keys.load(lease), *keys)

    async def renew(self, one: Instance) -> None:
        """What a process does every 250 ms; a zombie notices nothing and goes on."""
        one.counter += 1
        if not await self.registry.renew(self.namespace, one.lease, one.counter, [one.info], Load()):
            await self.registry.register(self.namespace, one.lease, [one.info])

    async def reconcile(self, one: Instance) -> None:
        """What the server says it owns and it does not run goes back, once that was seen twice."""
        extra = await self.recovery.owned(self.namespace, one.lease) - one.held.keys() - one.tails
        for request_id in extra & one.unaccounted:
            await self.recovery.requeue(self.namespace, request_id, one.lease)
        one.unaccounted = extra - one.unaccounted

    # Observers

    async def take_over(self, lease: int) -> None:
        """An observer takes an instance for dead, rightly or not."""
        if f"{lease:x}".encode() not in await self.store.commands.execute("SMEMBERS", self.keys.leases):
            return
        ids = await self.recovery.owned(self.namespace, lease)
        running = [one for one in ids if (await self.record(one))["st"] == "RUNNING"]
        await self.recovery.take_over(self.namespace, lease, "me")
        for record in [await self.record(one) for one in running]:
            used_up = int(record.get("bar", 0)) >= MAX_BARREN or int(record["att"]) >= MAX_ATTEMPTS
            assert record["st"] == ("FAILED" if used_up else "QUEUED"), record

    async def sweep(self) -> None:
        """What falls due, and messages that were lost."""
        before, now = read_dump(self.client, self.keys).records, self.now
        await self.sweeper._due(self.namespace)
        check_sweep(before, read_dump(self.client, self.keys).records, now)
        self.suspects, _ = await self.recovery.lost_messages(self.namespace, self.suspects)

    async def revive(self, request_id: str) -> None:
        """``dynamo-tasks dead retry``."""
        record = await self.record(request_id)
        with contextlib.suppress(RequestNotFoundError):
            await self.dead_list.retry(request_id)
            assert record["st"] == "FAILED"
            self.history.revived(request_id)

    # Judgement

    def verify(self) -> Dump:
        """Look at everything; raises ``AssertionError`` where an invariant does not hold."""
        dump = read_dump(self.client, self.keys)
        alive = {one.lease for one in self.instances}
        check(dump, self.history, alive=alive)
        return dump

    async def quiesce(self) -> None:
        """Everybody dies, new processes do all that is left; everything ends."""
        self.suspects = set()
        for _ in range(12):
            self.passes(3_600_000)
            for n in range(len(self.instances)):
                await self.kill(n)
            self.lost.clear()
            fresh = {one.lease for one in self.instances}
            for lease in set(await self.recovery.owners(self.namespace)) - fresh:
                await self.take_over(lease)
            await self.sweep()
            await self.sweep()
            for one in self.instances:
                await self._work_off(one)
            dump = self.verify()
            if not dump.open and not dump.queued and not any(dump.queues.values()):
                return
        raise AssertionError(f"not at rest after 12 hours: {dump.open} {dump.queues}")

    async def _work_off(self, one: Instance) -> None:
        for own in (False, True):
            await self.pop(one, own)
            while one.hand:
                await self.claim(one)
                await self.pop(one, own)
        for request_id in list(one.held):
            await self.append(one, request_id)
        for request_id in list(one.held):
            await self.finish(one, request_id, True, False)
        for request_id in list(one.tails):
            await self.settle(one, request_id)

    async def leave(self) -> None:
        """Orderly end of all processes and clients; what is left must have an end of its own."""
        dump = self.verify()
        for channel, ids in dump.reads.items():
            for request_id in ids:
                await self.detach(request_id, channel, True)
        for one in self.instances:
            await self.registry.revoke(self.namespace, one.lease)
        for _ in range(2):
            await self.presence.check(self.namespace)

    def erase(self) -> None:
        """Nothing is left on the server."""
        found = [
            *self.client.scan_iter(f"dt:{self.namespace}:*"),
            *self.client.scan_iter(f"{self.namespace}|*"),
        ]
        if found:
            self.client.delete(*found)
        self.client.srem("dt:@namespaces", self.namespace)


def _failed() -> End:
    return End(State.FAILED, "error", error=ErrorInfo("endpoint_error", "no"))


def run(loop: asyncio.AbstractEventLoop, coro: Any) -> Any:
    """Run a verb from a synchronous rule."""
    return loop.run_until_complete(coro)
