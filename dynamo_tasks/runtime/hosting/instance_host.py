"""One live process that serves endpoints: under one lease, in one worker context, with one health.

::

    prepare ─▶ connect ─▶ start ─▶ (the worker takes messages) ─▶ enter ⇄ add, remove ─▶ deregister ─▶ stop

The order is what loses nothing. An endpoint has its handler before its first message comes; the instance is present
before it claims anything, and registered only once messages are taken. It leaves the registry first, then what runs
ends, then the lease is revoked.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any

import msgspec

from dynamo_tasks.errors import AlreadyRegisteredError, ServerUnavailableError
from dynamo_tasks.protocol.instances import ASLEEP, InstanceInfo, Load
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.queue.app import DynamoApp
from dynamo_tasks.queue.execution.context import LaneContext, WorkerContext
from dynamo_tasks.queue.worker.consuming import abandon, consume
from dynamo_tasks.runtime.components.component import DistributedRuntime
from dynamo_tasks.runtime.hosting.endpoint import HostedEndpoint
from dynamo_tasks.runtime.hosting.health_gate import HealthGate
from dynamo_tasks.runtime.hosting.lane_host import LaneHost
from dynamo_tasks.runtime.hosting.lifecycle import InstanceState, Lifecycle
from dynamo_tasks.runtime.hosting.registration import Registration
from dynamo_tasks.runtime.resolver import task_of
from dynamo_tasks.runtime.supervision.actor import Actors
from dynamo_tasks.runtime.supervision.health import HealthMonitor, HealthSettings
from dynamo_tasks.runtime.supervision.recoverer import Recoverer
from dynamo_tasks.runtime.supervision.sweeper import Sweeper
from dynamo_tasks.runtime.supervision.watcher import show_own
from dynamo_tasks.sdk.hooks import Hook
from dynamo_tasks.store.lanes.lane import check_share, share
from dynamo_tasks.store.redis.server import Store
from dynamo_tasks.store.streams.open_stream import DEFAULT_CAP

__all__ = ["InstanceHost"]

_COUNTS = ("concurrency", "max_queue")
"""Limits that lanes share."""


class InstanceHost:
    """The endpoints of this process.

    Args:
        app: The Celery application whose worker takes the messages.
        runtime: Connections of the process.
        lease: Id of the instance.
        slots: Requests that it takes at a time, until the worker's pool says otherwise.
        health: Times of the health checks.
        on_dead: Called when it cannot serve any more, with the reason.
        probe: Asked for the health of all, beside the probes of single endpoints.
        engine_load: The load of its engine; ``None`` where it has none.
        component: Its name in the log; those of its endpoints by default.
        serves: Whether messages may be taken here at all; a frontend has no right to.
        stream_cap: Bytes that a request's log may have.

    Attributes:
        lifecycle: State of the instance.
        hosted: What it serves, by endpoint.
        failed: Whether it has died.
        queues: Those that bring messages of its endpoints.
        worker_context: In which its requests run.
    """

    def __init__(
        self,
        app: DynamoApp,
        runtime: DistributedRuntime,
        lease: int,
        *,
        slots: int,
        health: HealthSettings,
        on_dead: Callable[[str], None],
        probe: Callable[[Hook], Awaitable[bool]] | None = None,
        engine_load: Callable[[], Any] = lambda: None,
        component: str = "",
        serves: bool = True,
        stream_cap: int = DEFAULT_CAP,
    ):
        self.lease = lease
        self.lifecycle = Lifecycle(component, lease)
        self.failed = False
        self.queues: list[str] = []
        self._app = app
        client = runtime.client
        self._store = store = client.store
        self._registry = runtime.registry
        self._slots = slots
        self._pool: Any = None
        self._component = component
        self._on_dead = on_dead
        self._probe = probe
        self.hosted: dict[EndpointId, HostedEndpoint] = {}
        self._registrations: dict[str, Registration] = {}
        self._engine_load = engine_load
        self._tokens = (0, 0.0)
        self._engine_waited = 0.0
        self._last_load = Load(state=self.lifecycle.state)
        self._changing = asyncio.Lock()
        self._entered = asyncio.Event()
        self.worker_context = WorkerContext(
            store, lease, {}, stream_cap=stream_cap, further=[one.store for one in client.lanes[1:]],
            requests=client.ledger, find=client.namespace_of,
        )  # fmt: skip
        self._lanes = [
            LaneHost(lane, partial(self._registered_at, lane), serves=serves)
            for lane in self.worker_context.further
        ]
        self.worker_context.on_engine_died = self._suspect
        self._actors = Actors()
        self._helpers = Sweeper(store, erases=serves), Recoverer(store, cuts=serves)
        gate = HealthGate(
            self.lifecycle,
            app.consumer_gate,
            lambda: [one for one in self._registrations.values() if one.started],
        )
        self._health = HealthMonitor(
            health, self._ask, lambda: [one.handler for one in self.hosted.values()],
            busy=self._is_busy, on_result=gate.result, on_dead=self._die,
        )  # fmt: skip

    # -- endpoints ----------------------------------------------------------------------------------

    def prepare(self, *endpoints: HostedEndpoint) -> None:
        """Know further endpoints before the worker begins; nobody finds them yet.

        Raises:
            AlreadyRegisteredError: this process serves one of them already; nothing was changed.
        """
        self._know(endpoints)
        self.queues = self._wanted()

    async def add(self, *endpoints: HostedEndpoint) -> None:
        """Serve further endpoints; returns once requests are taken. If that fails, nothing has changed.

        Raises:
            AlreadyRegisteredError: this process serves one of them already.
        """
        # Before that the worker takes nothing yet: who found the endpoint would wait for it.
        await self._entered.wait()
        async with self._changing:
            self._know(endpoints)
            try:
                await self._take()
                await self._register()
            except BaseException:
                try:
                    await self._drop(endpoints)
                finally:
                    await self._give_up_registrations()
                raise

    async def remove(self, endpoints: Iterable[EndpointId]) -> None:
        """Serve some endpoints no more; what runs goes on. Harmless when repeated."""
        async with self._changing:
            await self._drop([self.hosted[one] for one in endpoints if one in self.hosted])

    def _know(self, endpoints: Iterable[HostedEndpoint]) -> None:
        for one in endpoints:
            if one.id in self.hosted:
                raise AlreadyRegisteredError(f"this process serves {one.id} already")
        for one in endpoints:
            task_of(self._app, one.id, one.declared)
            self.hosted[one.id] = one
            self.worker_context.handlers[str(one.id)] = one.handler
            self._registry.add_stats(one.id, *one.stats)
            registration = self.registration(one.id.namespace)
            if one.limits is not None:
                lanes = 1 + len(self._lanes)
                check_limits(one.id.component, one.limits, lanes)
                registration.traffic[one.id.component] = shared_limits(one.limits, 1, lanes)
        components = {one.component for one in self.hosted}
        self.lifecycle.component = self._component or ",".join(sorted(components))

    async def _drop(self, endpoints: Iterable[HostedEndpoint]) -> None:
        for one in endpoints:
            del self.hosted[one.id]
        try:
            await self._announce()
            await self._take()
        finally:
            self.forget(endpoints)

    def forget(self, endpoints: Iterable[HostedEndpoint]) -> None:
        """Know some endpoints no more, which nobody can find now."""
        for one in endpoints:
            self.hosted.pop(one.id, None)
            del self.worker_context.handlers[str(one.id)]
            self._app.tasks.unregister(str(one.id))
            self._registry.forget_stats(one.id, one.stats)

    async def _give_up_registrations(self) -> None:
        """Leave the namespaces in which it was to be registered for what is dropped now."""
        for namespace, registration in list(self._registrations.items()):
            if not registration.started:
                del self._registrations[namespace]
                await registration.stop()

    def _wanted(self) -> list[str]:
        named = (queue for one in self.hosted.values() for queue in one.queues(self.lease))
        return list(dict.fromkeys(named))

    async def _take(self) -> None:
        """Take messages from the queues of all endpoints, and from no others of this instance."""
        before, self.queues = self.queues, self._wanted()
        await abandon(self._app.worker, [queue for queue in before if queue not in self.queues])
        await consume(self._app.worker, [queue for queue in self.queues if queue not in before])

    # -- the registry -------------------------------------------------------------------------------

    def registration(self, namespace: str) -> Registration:
        """Its registration in a namespace; present from now on."""
        found = self._registrations.get(namespace)
        if found is None:
            found = self._registrations[namespace] = self._registration_at(self._store, namespace)
            found.appear()
        return found

    def _registration_at(self, store: Store, namespace: str) -> Registration:
        return Registration(
            store, namespace, self.lease, load=self._load, on_command=self.worker_context.on_command,
            running=self.worker_context.running_ids, stats=self._registry.stats,
        )  # fmt: skip

    def _registered_at(self, lane: LaneContext, namespace: str) -> Registration:
        """Its registration on a further lane, with that lane's part of the limits."""
        made, lanes = self._registration_at(lane.store, namespace), 1 + len(self._lanes)
        for one in self.hosted.values():
            if one.id.namespace == namespace and one.limits is not None:
                made.traffic[one.id.component] = shared_limits(one.limits, lane.number, lanes)
        return made

    @property
    def registered(self) -> bool:
        """``True`` while it can be found."""
        return any(one.registered for one in self._registrations.values())

    async def announce(self) -> None:
        """Announce what can be called now, since its state or the consumed queues have changed."""
        if self._entered.is_set():
            await self._announce()

    async def _announce(self) -> None:
        for namespace, registration in list(self._registrations.items()):
            # Redis gets what it could not be given with the next renewal.
            with contextlib.suppress(ServerUnavailableError):
                await registration.announce(self._heard(namespace))
            for lane in self._lanes:
                await lane.announce(namespace, self._heard(namespace))

    async def _register(self) -> None:
        for namespace, registration in list(self._registrations.items()):
            await registration.announce(self._heard(namespace))
            await registration.start()
            for lane in self._lanes:
                await lane.announce(namespace, self._heard(namespace))

    def _heard(self, namespace: str) -> list[InstanceInfo]:
        """Registrations of a namespace's endpoints: an instance is called by name only while it listens to that."""
        here = [one for one in self.hosted.values() if one.id.namespace == namespace]
        infos = [one.info(self.lease, self.capacity) for one in here]
        if self.lifecycle.state is InstanceState.ASLEEP:
            return [_asleep(info) for info in infos[:1]]
        consumed = self._app.amqp.queues.consume_from
        return [info for info in infos if info.transport["celery"] in consumed]

    # -- load and health ----------------------------------------------------------------------------

    @property
    def capacity(self) -> int:
        """Its slots; those of the pool, once there is one, which grows and shrinks."""
        return self._slots if self._pool is None else int(self._pool.slots)

    def _load(self) -> Load:
        now, total = time.monotonic(), self.worker_context.tokens
        preemption = self.worker_context.preemption
        before, at = self._tokens
        self._tokens = (total, now)
        load = self._last_load = Load(
            in_flight=self.worker_context.in_flight, capacity=self.capacity, tokens=total, state=self.lifecycle.state,
            preemptible=preemption.ready, preemptions=preemption.total,
            taken=self.worker_context.taken, waits=self.worker_context.waits.counts,
            waited_s=round(self.worker_context.waits.seconds, 3),
        )  # fmt: skip
        if at:
            load.tokens_per_s = (total - before) / (now - at)
        stats = self._engine_load()
        if stats is not None:
            load.running, load.waiting = stats.running, stats.waiting
            load.kv_usage, load.prefix_hits = stats.kv_usage, stats.prefix_hit_rate
            load.prefill_tokens = max(0, stats.prefill_tokens)
            load.kv_active_blocks, load.kv_total_blocks = stats.kv_active_blocks, stats.kv_total_blocks
            # So many waited all the time since the last report: divided by requests, the mean wait (Little's law).
            self._engine_waited += stats.waiting * (now - at) if at else 0.0
            load.engine_waited_s = round(self._engine_waited, 3)
            show_own(self.lifecycle.component, load)
        return load

    def facts(self) -> dict[str, Any]:
        """Facts about the instance for Celery's ``inspect stats``, beside Celery's own; Flower shows them."""
        return {"instance_id": f"{self.lease:x}", **msgspec.to_builtins(self._last_load)}

    async def _ask(self, hook: Hook) -> bool:
        probes = [one.probe for one in self.hosted.values()]
        for probe in (self._probe, *probes):
            if probe is not None and not await probe(hook):
                return False
        return True

    def _is_busy(self) -> bool:
        return self.worker_context.in_flight > 0 or self.lifecycle.state is InstanceState.ASLEEP

    def _suspect(self, reason: str) -> None:
        """Take nothing more, since an endpoint reports a dead engine, and check the health now."""
        self._app.consumer_gate.pause()
        self._health.suspect()

    def _die(self, reason: str) -> None:
        self.lifecycle.report("instance.dead", reason)
        self.failed = True
        self._on_dead(reason)

    # -- life ---------------------------------------------------------------------------------------

    async def connect(self) -> WorkerContext:
        """Start what its requests run in."""
        await self.worker_context.start()
        return self.worker_context

    async def start(self, pool: Any) -> None:
        """Know the pool, whose slots are the instance's."""
        self._pool = pool

    async def enter(self) -> None:
        """Register, since messages are taken, and look after what dead instances leave behind."""
        if self._registrations:
            if self.queues != self._wanted():  # a start was given up meanwhile
                await self._take()
            await self._register()
            self.lifecycle.advance(InstanceState.REGISTERED)
        self._entered.set()
        await self._actors.start(*self._helpers)
        for lane in self._lanes:
            lane.begin()
        if self._registrations:
            self.lifecycle.advance(InstanceState.RUNNING)
            await self._actors.start(self._health)

    async def deregister(self) -> None:
        """Leave the registry; what runs goes on."""
        await self._health.stop()
        if self._registrations and self.lifecycle.state is not InstanceState.DEREGISTERED:
            self.lifecycle.advance(InstanceState.STOPPING)
        for registration in list(self._registrations.values()):
            await registration.deregister()
        await asyncio.gather(*(lane.deregister() for lane in self._lanes))

    async def stop(self) -> None:
        """Revoke the lease and close, since the worker has ended."""
        # First out of the registry: nobody chooses an instance that is about to end.
        await self.deregister()
        await self._actors.stop()
        await asyncio.gather(*(lane.stop() for lane in self._lanes))
        await self.worker_context.close()
        for registration in list(self._registrations.values()):
            await registration.stop()
        if self._registrations:
            self.lifecycle.advance(InstanceState.DEREGISTERED)


def shared_limits(limits: Mapping[str, int | None], number: int, lanes: int) -> Mapping[str, int | None]:
    """The part of a component's limits that one lane holds; times are the same on all."""
    if lanes == 1:
        return limits
    counts = {name: limits.get(name) for name in _COUNTS}
    return {**limits, **{name: value and share(value, number, lanes) for name, value in counts.items()}}


def check_limits(component: str, limits: Mapping[str, int | None], lanes: int) -> None:
    """Refuse limits that lanes cannot share."""
    for name in _COUNTS:
        check_share(f"{component}.ServiceArgs.traffic.{name}", limits.get(name), lanes)


def _asleep(info: InstanceInfo) -> InstanceInfo:
    """The one registration of an instance that sleeps: it serves nothing, and can be seen and woken."""
    return msgspec.structs.replace(info, endpoint=ASLEEP, model=None, streaming=False)
