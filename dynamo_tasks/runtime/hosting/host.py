"""A service in a process: instantiated, linked, started, registered, and taken down in the reverse order."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from functools import partial
from typing import Any

import msgspec

from dynamo_tasks.observe import tracing
from dynamo_tasks.observe.log import event
from dynamo_tasks.protocol.instances import InstanceInfo, Load, ModelCard
from dynamo_tasks.queue.app import DynamoApp
from dynamo_tasks.queue.execution.context import WorkerContext
from dynamo_tasks.queue.execution.handlers import Handler
from dynamo_tasks.queue.execution.telemetry import meters_of
from dynamo_tasks.runtime.components.component import DistributedRuntime
from dynamo_tasks.runtime.control import CommandHandler
from dynamo_tasks.runtime.handler import EndpointHandler
from dynamo_tasks.runtime.hosting.annex import Annex
from dynamo_tasks.runtime.hosting.announcing import Announcements
from dynamo_tasks.runtime.hosting.dependencies import colocated, start_service
from dynamo_tasks.runtime.hosting.health_gate import HealthGate
from dynamo_tasks.runtime.hosting.instance import Instance
from dynamo_tasks.runtime.hosting.lifecycle import InstanceState, Lifecycle
from dynamo_tasks.runtime.hosting.listener import Listener
from dynamo_tasks.runtime.hosting.sleep import SleepController
from dynamo_tasks.runtime.hosting.slots import limits_of, slots_of
from dynamo_tasks.runtime.resolver import RuntimeResolver, task_of
from dynamo_tasks.runtime.supervision.collector import calm_collector
from dynamo_tasks.runtime.supervision.health import HealthMonitor, HealthSettings
from dynamo_tasks.runtime.supervision.recoverer import Recoverer
from dynamo_tasks.runtime.supervision.sweeper import Sweeper
from dynamo_tasks.runtime.supervision.system import SystemServer, system_port
from dynamo_tasks.runtime.supervision.watcher import show_own
from dynamo_tasks.sdk import DynamoEndpoint, DynamoService, Graph, ServiceState, get_resolver, set_resolver
from dynamo_tasks.sdk.hooks import probe
from dynamo_tasks.store.ledger.memory import memory_of
from dynamo_tasks.store.redis.retry import at_start
from dynamo_tasks.store.registry import new_lease
from dynamo_tasks.store.streams.open_stream import DEFAULT_CAP

__all__ = ["ServiceHost"]

Service = DynamoService[Any]


class ServiceHost:
    """Hosts the entry service of a graph, and the plain services that it depends on.

    Args:
        app: The Celery application.
        graph: Configured; its entry is the service to host.
        wait: Whether to wait for a Redis server that cannot be reached yet.

    Attributes:
        http: Serves the HTTP methods of a component; ``None`` where it does not, or where they are served by
            a process of their own.
    """

    def __init__(self, app: DynamoApp, graph: Graph, *, wait: bool = False):
        self.app = app
        self.graph = graph
        self.service: Service = graph.entry
        self.lease = new_lease()
        self._announced = Announcements()
        self._slots = slots_of(self.service)
        self._pool: Any = None
        self.failed = False
        self.instances: dict[Service, Any] = {}
        self._wait = wait
        self.lifecycle = Lifecycle(self.service.component_name, self.lease)
        self._health: HealthMonitor | None = None
        self._endpoints: list[EndpointHandler] = []
        self._handlers: dict[str, Handler] = {}
        self._executor: WorkerContext | None = None
        self._registered: Instance | None = None
        self._runtime: DistributedRuntime | None = None
        self._sweeper: Sweeper | None = None
        self._recoverer: Recoverer | None = None
        self._tokens = (0, 0.0)
        self._last_load = Load(state=self.lifecycle.state)
        self.http: Listener | None = None
        self.system = self._system_server()
        self.queues = self._queue_names()
        for endpoint in self.service.get_dynamo_endpoints().values() if self.is_component else ():
            _ = (
                endpoint.request_type
            )  # an annotation that cannot be read is refused now, not at the first request
            task_of(app, endpoint.id, endpoint)

    @property
    def capacity(self) -> int:
        """Its slots; those of the pool, once there is one, which grows and shrinks."""
        return self._slots if self._pool is None else int(self._pool.slots)

    @property
    def is_component(self) -> bool:
        """``True`` if it serves requests from the queue."""
        return self.service.is_dynamo_component() and bool(self.service.get_dynamo_endpoints())

    @property
    def expected(self) -> dict[tuple[str, str], int]:
        """Component address → number of instances that the graph is configured with."""
        return {
            one.dynamo_address(): one.settings.workers
            for one in self.graph.components()
            if one.get_dynamo_endpoints()
        }

    def _system_server(self) -> SystemServer | None:
        port = system_port(self.service.settings.system_port)
        if port is None:
            return None
        lag = HealthSettings.of(self.service.inner).max_lag
        return SystemServer(port, self._why_not, max_lag=lag)

    def _why_not(self) -> str:
        """Say why the process takes no work now; called in a thread."""
        if self._runtime is None or not self._runtime.client.store.commands.connected:
            return "there is no connection to the Redis server"
        if self.is_component and not (self._registered and self._registered.registered):
            return f"it is not registered; its state is {self.lifecycle.state}"
        return ""

    def _queue_names(self) -> list[str]:
        ids = [endpoint.id for endpoint in self.service.get_dynamo_endpoints().values()]
        return (
            sorted({i.queue for i in ids}) + [i.instance_queue(self.lease) for i in ids]
            if self.is_component
            else []
        )

    @property
    def runtime(self) -> DistributedRuntime:
        """The process's connections; there once it is connected."""
        assert self._runtime is not None
        return self._runtime

    @property
    def instance(self) -> Any:
        """The live object of the hosted service."""
        return self.instances[self.service]

    async def connect(self) -> WorkerContext:
        """Connect to Redis.

        Raises:
            ServerUnavailableError: it cannot be reached.
        """
        tracing.configure(self.service.component_name)
        event(
            "config.loaded", graph=self.graph.name, services=",".join(one.name for one in self.graph.services),
            redis_url=self.app.server_url,
        )  # fmt: skip
        patiently = partial(at_start, away=self._wait)
        self._runtime = runtime = await patiently(self._connect_runtime)
        self._sweeper = Sweeper(runtime.client.store, erases=self.is_component)
        self._recoverer = Recoverer(runtime.client.store, cuts=self.is_component)
        cap = self.service.settings.traffic.get("max_stream_bytes") or DEFAULT_CAP
        self._executor = WorkerContext(runtime.client.store, self.lease, self._handlers, stream_cap=int(cap))
        steps = (
            runtime.client.store.check_scripts,
            self._executor.start,
            partial(self._check_memory, runtime),
        )
        await asyncio.gather(*map(patiently, steps))
        resolver = RuntimeResolver(self.app, runtime, self.instances)
        resolver.instance_id = f"{self.lease:x}"
        resolver.expected = self.expected
        set_resolver(resolver)
        return self._executor

    async def _check_memory(self, runtime: DistributedRuntime) -> None:
        """Warn early of low memory, for which requests would be refused later."""
        memory = await memory_of(runtime.client.store)
        if self.is_component and memory.is_tight(self.capacity):
            event(
                "store.memory_low", used=memory.used, limit=memory.limit, slots=self.capacity,
                tokens_per_s=round(memory.tokens_per_s),
            )  # fmt: skip

    async def _connect_runtime(self) -> DistributedRuntime:
        return await DistributedRuntime.create(self.app.server_url, prefix=self.app.key_prefix)

    async def start(self, pool: Any = None) -> None:
        """Make the instances, dependencies first; run their hooks; fill the handler table.

        Args:
            pool: Of the worker, which calls :meth:`enter` once it takes messages; without one, nobody has to.
        """
        if self.system is not None:
            # First, so that probes find the process alive while it loads a model.
            await self.system.start()
        for service in colocated(self.service):
            await start_service(self.runtime, service, self.instances)
        if self.http is not None:
            # Before it is registered: a port that is taken must leave nothing behind.
            await self.http.start()
        if self.is_component:
            declared = self.service.get_dynamo_endpoints().values()
            self._endpoints = [EndpointHandler(one, self.instance) for one in declared]
            self._handlers.update({str(handler.endpoint): handler for handler in self._endpoints})
            self._make_instance().appear()
        self._pool = pool
        if pool is None:
            await self.enter()

    async def enter(self) -> None:
        """Register, and look after what dead instances leave behind."""
        if self.is_component:
            await self._register()
            if self._pool is not None:
                self._accept_commands(self._pool)
        assert self._sweeper is not None
        assert self._recoverer is not None
        await self._sweeper.start()
        await self._recoverer.start()
        self.service.advance(ServiceState.RUNNING)
        if self._registered is not None:
            self.lifecycle.advance(InstanceState.RUNNING)
            await self._watch_health()
        calm_collector()
        event(
            "worker.start", component=self.service.component_name, instance_id=f"{self.lease:x}", pid=os.getpid(),
            capacity=self.capacity, queues=",".join(self.queues), gpus=os.environ.get("CUDA_VISIBLE_DEVICES"),
        )  # fmt: skip

    def _make_instance(self) -> Instance:
        assert self._executor is not None
        namespace, component = self.service.dynamo_address()
        self._registered = Instance(
            self.runtime.client.store, namespace, self.lease, load=self._load, on_command=self._executor.on_command,
            running=self._executor.running_ids, stats=self.runtime.registry.stats,
            traffic={component: limits_of(self.service)},
        )  # fmt: skip
        return self._registered

    async def _register(self) -> None:
        namespace, component = self.service.dynamo_address()
        common: dict[str, Any] = {
            "component": component, "namespace": namespace, "lease_id": self.lease, "host": socket.gethostname(),
            "pid": os.getpid(), "started": time.time(), "capacity": self.capacity, "model": self._model(),
            "extra": {"service": self.service.class_path}
            | ({"system_port": self.system.port} if self.system is not None else {}),
            "http": self.http.url if self.http is not None else None,
        }  # fmt: skip
        infos = [
            InstanceInfo(
                endpoint=e.name,
                streaming=e.is_stream,
                transport={"celery": e.id.instance_queue(self.lease)},
                **common,
            )
            for e in self.service.get_dynamo_endpoints().values()
        ]
        for declared in self.service.get_dynamo_endpoints().values():
            self._add_stats(declared)
        assert self._registered is not None
        consumed = self.app.amqp.queues.consume_from if self._pool is not None else None
        await self._registered.start(self._announced.heard(self._registered, infos, consumed))
        resolver = get_resolver()
        if isinstance(resolver, RuntimeResolver):
            resolver.annex = Annex(self.app, self._registered, namespace, self._handlers, self.capacity)
        self.lifecycle.advance(InstanceState.REGISTERED)

    def _accept_commands(self, pool: Any) -> None:
        """Accept the commands to sleep and to wake."""
        assert self._registered is not None
        controller = SleepController(
            self.lifecycle, self.app.consumer_gate, self._registered, self.instance, pool
        )
        namespace, _ = self.service.dynamo_address()
        commands = CommandHandler(self.runtime.client.store, namespace, controller.handle)
        self._registered.on_control = commands.take

    async def _watch_health(self) -> None:
        executor, registered = self._executor, self._registered
        assert executor is not None
        assert registered is not None

        def busy() -> bool:
            return executor.in_flight > 0 or self.lifecycle.state is InstanceState.ASLEEP

        gate = HealthGate(self.lifecycle, self.app.consumer_gate, lambda: [registered])
        self._health = HealthMonitor(
            HealthSettings.of(self.service.inner), partial(probe, self.instance), lambda: self._endpoints,
            busy=busy, on_result=gate.result, on_dead=self._dead,
        )  # fmt: skip
        await self._health.start()
        executor.on_engine_died = self._engine_died

    def _engine_died(self, reason: str) -> None:
        """Take nothing more, since an endpoint reports a dead engine, and check the health now."""
        self.app.consumer_gate.pause()
        if self._health is not None:
            self._health.suspect()

    def _dead(self, reason: str) -> None:
        """Hand over what runs and end the process, which must be started anew."""
        self.lifecycle.report("instance.dead", reason)
        self.failed = True
        signal.raise_signal(signal.SIGQUIT)

    def _add_stats(self, declared: DynamoEndpoint) -> None:
        """Add the meters of an endpoint, and what the service itself reports: ``stats(endpoint name)``."""
        self.runtime.registry.add_stats(declared.id, meters_of(declared.id).stats)
        own = getattr(self.instance, "stats", None)
        if callable(own):
            self.runtime.registry.add_stats(declared.id, partial(own, declared.name))

    def _model(self) -> ModelCard | None:
        card = getattr(self.instance, "model_card", None)
        return card() if callable(card) else card

    def _load(self) -> Load:
        assert self._executor is not None
        now, total = time.monotonic(), self._executor.tokens
        before, at = self._tokens
        elapsed = now - at
        self._tokens = (total, now)
        load = Load(
            in_flight=self._executor.in_flight,
            capacity=self.capacity,
            tokens=total,
            state=self.lifecycle.state,
        )
        if at:
            load.tokens_per_s = (total - before) / elapsed
        own = getattr(self.instance, "engine_load", None)
        if callable(own):
            stats = own()
            load.running, load.waiting = stats.running, stats.waiting
            load.kv_usage, load.prefix_hits = stats.kv_usage, stats.prefix_hit_rate
            show_own(self.service.component_name, load)
        self._last_load = load
        return load

    async def consumes(self, queue: str, *, consumed: bool) -> None:
        """Follow a queue that is consumed from now on, or no more."""
        if self._registered is not None:
            await self._announced.follow([self._registered], queue, consumed=consumed)

    def facts(self) -> dict[str, Any]:
        """Facts about the instance for Celery's ``inspect stats``, beside Celery's own; Flower shows them."""
        port = {"system_port": self.system.port} if self.system is not None else {}
        return {"instance_id": f"{self.lease:x}", **msgspec.to_builtins(self._last_load), **port}

    async def deregister(self) -> None:
        """Leave the registry; what runs goes on."""
        if self._health is not None:
            await self._health.stop()
        if self._registered is not None and self.lifecycle.state is not InstanceState.STOPPING:
            self.lifecycle.advance(InstanceState.STOPPING)
            await self._registered.deregister()

    async def stop(self) -> None:
        """Run the shutdown hooks, revoke the lease, close all connections; also where a hook raises."""
        if self._sweeper is not None:
            await self._sweeper.stop()
        if self._recoverer is not None:
            await self._recoverer.stop()
        await self.deregister()
        if self.http is not None:
            await self.http.stop()
        try:
            await self._run_shutdown_hooks()
        finally:
            await self._leave()

    async def _run_shutdown_hooks(self) -> None:
        for service in reversed(colocated(self.service)):
            if service in self.instances and service.state != ServiceState.STOPPING:
                await service.on_shutdown(self.instances[service])

    async def _leave(self) -> None:
        """Revoke the lease, close all connections."""
        if self._executor is not None:
            await self._executor.close()
        if self._registered is not None:
            await self._registered.stop()
            self.lifecycle.advance(InstanceState.DEREGISTERED)
        if self._runtime is not None:
            await self._runtime.aclose()
        if self.system is not None:
            await self.system.stop()
        event(
            "worker.stop",
            component=self.service.component_name,
            instance_id=f"{self.lease:x}",
            reason="stopped",
        )
