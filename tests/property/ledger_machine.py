"""The state machine of the ledger: requests, processes, clients and observers in every order.

One step is one call of a verb, or one thing that happens to a process. The invariants are checked after each; at the
end everybody dies, new processes work off what is left, and everything must have ended.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Any, ClassVar

import hypothesis.strategies as st
import redis
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dynamo_tasks.errors import DeadlineUnreachableError
from dynamo_tasks.store.documents import Documents
from dynamo_tasks.store.redis.server import Store
from tests.property.ledger_invariants import check_rest
from tests.property.ledger_observers import Observers
from tests.property.ledger_parts import Instance
from tests.property.ledger_processes import Processes
from tests.property.ledger_world import World

__all__ = ["LedgerMachine"]

REQUESTS, INSTANCES, CHANNELS = st.integers(0, 3), st.integers(0, 2), st.sampled_from(["c1", "c2"])
_namespaces = itertools.count(1)


class LedgerMachine(RuleBasedStateMachine):
    """A router, two workers, two clients; any number of requests, of which four are looked at."""

    loop: ClassVar[asyncio.AbstractEventLoop]
    client: ClassVar[redis.Redis]
    store: ClassVar[Store]
    sound = True

    def run_(self, coro: Any) -> Any:
        return self.loop.run_until_complete(coro)

    @initialize()
    def begin(self) -> None:
        self.world = World(self.client, self.store, f"ledger{next(_namespaces)}")
        self.world.erase()
        self.processes = Processes(self.world)
        self.observers = Observers(self.world, self.processes)
        world = self.world
        for endpoint in (world.router, world.worker, world.worker):
            world.instances.append(self.run_(self.processes.boot(endpoint)))
        for n in range(2):
            self.run_(world.submit(f"r{n}", world.worker))

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "world"):
            self.sound = False
            self.world.verify()
            self.sound = True

    def _instance(self, n: int) -> Instance:
        return self.world.instances[n]

    def _held(self, n: int, k: int) -> str | None:
        held = sorted(self._instance(n).held)
        return held[k % len(held)] if held else None

    # Clients

    @rule(
        n=REQUESTS, routed=st.booleans(), priority=st.sampled_from([0, 0, 5]), eta=st.sampled_from([0, 0, 5]),
        deadline=st.sampled_from([0, 0, 8]), expires=st.sampled_from([0, 0, 6]), background=st.booleans(),
        ignore=st.booleans(), reader=st.sampled_from(["", "c1"]), document=st.sampled_from([b"", b"d"]),
    )  # fmt: skip
    def submit(
        self, n: int, routed: bool, priority: int, eta: int, deadline: int, expires: int, background: bool,
        ignore: bool, reader: str, document: bytes,
    ) -> None:  # fmt: skip
        world = self.world
        now = world.now / 1000
        endpoint = world.router if routed else world.worker
        stands = self.run_(
            world.submit(
                f"r{n}", endpoint, priority=priority, not_before=now + eta if eta else 0.0,
                deadline=now + deadline if deadline else 0.0, expires=now + expires if expires else 0.0,
                background=background, ignore_result=ignore, reader=reader, document=document,
            )
        )  # fmt: skip
        assert stands == f"r{n}"

    @rule(key=st.sampled_from(["k1", "k2"]), payload=st.sampled_from(["x", "x", "y"]))
    def submit_with_a_key(self, key: str, payload: str) -> None:
        world = self.world
        before = self.client.get(world.keys.idempotency("t", key))
        request_id = f"k{world.history.number()}"
        stands = self.run_(
            world.submit(request_id, world.worker, idempotency_key=key, digest=payload, tenant="t")
        )
        if before is None:
            assert stands == request_id
            return
        known, digest = before.decode().split()
        assert stands == (known if digest == payload else None)
        assert request_id not in world.history.keeps

    @rule(n=REQUESTS, retries=st.sampled_from([0, 0, 1]), routed=st.booleans())
    def a_message_is_repeated(self, n: int, retries: int, routed: bool = False) -> None:
        """Delivered twice, or delivered after the end: to whoever takes the next one, here or behind the router."""
        endpoint = self.world.router if routed else self.world.worker
        if f"r{n}" in self.world.history.keeps:
            self.world.repeated.add(f"r{n}")
            self.client.rpush(endpoint.queue, self.world.message(f"r{n}", endpoint, retries))

    @rule(
        n=REQUESTS, to=st.integers(1, 2),
        first=st.sampled_from(["", "death", "hang", "retry", "time", "a retry that hangs"]),
    )  # fmt: skip
    def a_message_is_late(self, n: int, to: int, first: str) -> None:
        """It is delivered once more, to somebody in particular, behind what may have happened to who knew of it."""
        if first == "death":
            self.fail_over(3 - to)
        elif first == "hang":
            self.lapse(3 - to)
        elif first == "retry":
            self.release(3 - to, True, 0, False)
        elif first == "a retry that hangs":
            self.release(3 - to, True, 0, False)
            self.serve(3 - to, False, False)
            self.lapse(3 - to)
        elif first == "time":
            self.time_passes(10_000)
        self.a_message_is_repeated(n, 0)
        self.serve(to, False, False)

    @rule()
    def a_foreign_message(self) -> None:
        """``app.send_task``: nobody has written a record."""
        endpoint = self.world.worker
        request_id = f"f{self.world.history.number()}"
        self.client.lpush(endpoint.queue, self.world.message(request_id, endpoint, tracked=False))

    @rule(routed=st.booleans())
    def a_message_is_lost(self, routed: bool) -> None:
        endpoint = self.world.router if routed else self.world.worker
        raw = self.client.lindex(endpoint.queue, -1)
        if raw is not None and b'"tracked": true' in raw:
            self.client.rpop(endpoint.queue)

    @rule(n=REQUESTS, channel=CHANNELS)
    def attach(self, n: int, channel: str) -> None:
        self.run_(self.world.attach(f"r{n}", channel))

    @rule(n=REQUESTS, channel=CHANNELS, saw_end=st.booleans())
    def detach(self, n: int, channel: str, saw_end: bool) -> None:
        if self.run_(self.world.record(f"r{n}")):
            self.run_(self.world.detach(f"r{n}", channel, saw_end))

    @rule()
    def clients_die(self) -> None:
        """All channels of clients have lost their subscribers (here they never have any)."""
        self.run_(self.observers.clients_die())

    @rule(n=REQUESTS)
    def cancel(self, n: int) -> None:
        self.run_(self.world.ledger.cancel(self.world.namespace, f"r{n}"))

    @rule(n=REQUESTS)
    def revoke_if_queued(self, n: int) -> None:
        world = self.world
        before = self.run_(world.record(f"r{n}")).get("state")
        answer = self.run_(world.ledger.cancel(world.namespace, f"r{n}", guard="queued"))
        assert (answer == "OK") == (before == "QUEUED")

    @rule(n=REQUESTS)
    def keep(self, n: int) -> None:
        """An API has made something of the stream, if it has ended."""
        self.run_(Documents(self.world.store).keep(self.world.namespace, f"r{n}", b"made", 60))

    @rule(n=REQUESTS)
    def purge(self, n: int) -> None:
        self.run_(self.world.ledger.upkeep.purge(self.world.namespace, f"r{n}"))

    @rule(n=REQUESTS)
    def revive(self, n: int) -> None:
        self.run_(self.observers.revive(f"r{n}"))

    # Processes

    @rule(n=INSTANCES, own=st.booleans())
    def pop(self, n: int, own: bool) -> None:
        self.run_(self.processes.pop(self._instance(n), own))

    @rule(n=INSTANCES, again=st.booleans())
    def claim(self, n: int, again: bool) -> None:
        self.run_(self.processes.claim(self._instance(n), again))

    @rule(n=INSTANCES, own=st.booleans(), append=st.booleans(), again=st.booleans())
    def serve(self, n: int, own: bool, append: bool, again: bool = False) -> None:
        """What a worker does if nothing comes in between: so that random runs get somewhere."""
        self.pop(n, own)
        self.claim(n, again)
        if append:
            self.append(n, 0)

    @rule(n=INSTANCES, settle=st.booleans())
    def work(self, n: int, settle: bool) -> None:
        """The whole life of whatever comes next."""
        self.serve(n, False, True)
        self.finish(n, 0, True, False)
        if settle:
            self.settle(n)

    @rule(to=st.integers(1, 2), started=st.booleans())
    def a_deadline_passes(self, to: int, started: bool) -> None:
        """Of a new request, in the queue or while it runs; and nobody but the sweeper cares."""
        world = self.world
        deadline = world.now / 1000 + 5
        try:
            self.run_(world.submit(f"d{world.history.number()}", world.worker, deadline=deadline))
        except DeadlineUnreachableError:  # those before it have taken so long
            return
        if started:
            self.serve(to, False, False)
        self.time_passes(10_000)
        self.sweep()

    @rule(n=INSTANCES, k=st.integers(0, 2))
    def append(self, n: int, k: int) -> None:
        if request_id := self._held(n, k):
            self.run_(self.processes.append(self._instance(n), request_id))

    @rule(n=INSTANCES, k=st.integers(0, 2), good=st.booleans(), again=st.booleans(), kept=st.booleans())
    def finish(self, n: int, k: int, good: bool, again: bool, kept: bool = False) -> None:
        if request_id := self._held(n, k):
            self.run_(self.processes.finish(self._instance(n), request_id, good, again, kept))

    @rule(n=INSTANCES)
    def settle(self, n: int) -> None:
        for request_id in sorted(self._instance(n).completing)[:1]:
            self.run_(self.processes.settle(self._instance(n), request_id))

    @rule(n=INSTANCES, k=st.integers(0, 2))
    def resync(self, n: int, k: int) -> None:
        if request_id := self._held(n, k):
            self.run_(self.processes.resync(self._instance(n), request_id))

    @rule(n=INSTANCES, retry=st.booleans(), wait_ms=st.sampled_from([0, 3000]), again=st.booleans())
    def release(self, n: int, retry: bool, wait_ms: int, again: bool) -> None:
        if request_id := self._held(n, 0):
            one = self._instance(n)
            self.run_(self.processes.release(one, request_id, retry=retry, wait_ms=wait_ms, again=again))

    @rule(n=INSTANCES, k=st.integers(0, 2), shared=st.booleans(), again=st.booleans())
    def preempt(self, n: int, k: int, shared: bool, again: bool) -> None:
        if request_id := self._held(n, k):
            self.run_(self.processes.preempt(self._instance(n), request_id, shared, again))

    @rule(n=st.integers(1, 2), again=st.booleans())
    def forward(self, n: int, again: bool) -> None:
        if request_id := self._held(0, 0):
            self.run_(self.processes.forward(self._instance(0), request_id, self._instance(n), again))

    @rule(again=st.booleans(), n=st.integers(1, 2))
    def route(self, again: bool, n: int) -> None:
        """What a router does if nothing comes in between."""
        self.serve(0, False, False)
        self.forward(n, again)

    @rule(n=INSTANCES)
    def kill(self, n: int) -> None:
        self.run_(self.processes.kill(n))

    @rule(n=INSTANCES)
    def lapse(self, n: int) -> None:
        self.run_(self.processes.lapse(self._instance(n).lease))

    @rule()
    def lost_leases_lapse(self) -> None:
        for lease in self.world.lost:
            self.run_(self.processes.lapse(lease))

    @rule(n=INSTANCES)
    def renew(self, n: int) -> None:
        self.run_(self.processes.renew(self._instance(n)))

    @rule(n=INSTANCES)
    def reconcile(self, n: int) -> None:
        self.run_(self.processes.reconcile(self._instance(n)))

    # Observers

    @rule()
    def reap_the_dead(self) -> None:
        for lease in self.world.lost:
            self.run_(self.observers.take_over(lease))
        self.world.lost.clear()

    @rule(n=INSTANCES)
    def take_the_living_for_dead(self, n: int) -> None:
        """A wrong guess; it may go on before it renews."""
        self.run_(self.observers.take_over(self._instance(n).lease))

    @rule(n=INSTANCES)
    def fail_over(self, n: int) -> None:
        """Killed, and requeued: what a fault does if nothing comes in between."""
        self.kill(n)
        self.reap_the_dead()

    @rule(n=st.integers(1, 2), revive=st.booleans())
    def poison(self, n: int, revive: bool) -> None:
        """What comes next kills whoever takes it."""
        for _ in range(3):
            self.serve(n, False, False)
            self.fail_over(n)
        if revive:
            for request in range(4):
                self.revive(request)

    @rule()
    def sweep(self) -> None:
        self.run_(self.observers.sweep())

    @rule(n=REQUESTS)
    def a_sweeper_is_late(self, n: int) -> None:
        self.run_(self.observers.end_overdue(f"r{n}"))

    @rule(ms=st.sampled_from([1, 1000, 6000]))
    def time_passes(self, ms: int) -> None:
        self.world.passes(ms)

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            if self.sound:
                self.run_(self.observers.quiesce())
                self.run_(self.observers.leave())
                check_rest(self.world.verify())
        finally:
            self.world.erase()
