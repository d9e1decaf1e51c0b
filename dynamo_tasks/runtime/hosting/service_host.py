"""A service in a process: made, linked, started, registered, and taken down in the reverse order."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable
from functools import partial
from typing import Any, Protocol

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.observe import tracing
from dynamo_tasks.observe.log import event
from dynamo_tasks.protocol.instances import ModelCard
from dynamo_tasks.queue.app import DynamoApp
from dynamo_tasks.queue.execution.context import WorkerContext
from dynamo_tasks.runtime.components.component import DistributedRuntime
from dynamo_tasks.runtime.control import CommandHandler
from dynamo_tasks.runtime.hosting.endpoint import HostedEndpoint
from dynamo_tasks.runtime.hosting.instance_host import InstanceHost
from dynamo_tasks.runtime.hosting.services import ProcessServices
from dynamo_tasks.runtime.hosting.sleep import SleepController
from dynamo_tasks.runtime.resolver import task_of
from dynamo_tasks.runtime.supervision.actor import Actors, Startable
from dynamo_tasks.runtime.supervision.collector import tune_collector
from dynamo_tasks.runtime.supervision.health import HealthSettings
from dynamo_tasks.runtime.supervision.system import SystemServer, system_port
from dynamo_tasks.sdk import DynamoEndpoint, DynamoService, Graph, ServiceState
from dynamo_tasks.sdk.hooks import Hook, probe
from dynamo_tasks.store.redis.retry import retry_at_start, retry_until_up
from dynamo_tasks.store.registry import new_lease
from dynamo_tasks.store.scales import Scales
from dynamo_tasks.store.streams.memory import memory_of
from dynamo_tasks.store.streams.open_stream import DEFAULT_CAP

__all__ = ["Listener", "ServiceHost"]

_SLOTS = 256
"""Requests that one process takes at a time, where nothing says otherwise."""


class Listener(Startable, Protocol):
    """An HTTP server beside the queue."""

    @property
    def url(self) -> str | None:
        """The URL at which others reach it; ``None`` while it does not listen."""


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
        self.service: DynamoService[Any] = graph.entry
        self.lease = new_lease()
        self.http: Listener | None = None
        self._wait = wait
        self._services = ProcessServices(app, self.service, wait=wait)
        self._host: InstanceHost | None = None
        self._actors = Actors()
        self._slots = _slots_of(self.service)
        self._system = self._system_server()
        self._declared: list[DynamoEndpoint] = []
        if self.service.is_dynamo_component():
            self._declared += self.service.get_dynamo_endpoints().values()
        self.queues = sorted({one.id.queue for one in self._declared})
        for one in self._declared:
            self.queues.append(one.id.instance_queue(self.lease))
            _ = one.request_type  # an annotation that cannot be read is refused now, not at the first request
            task_of(app, one.id, one)

    # -- what others ask ----------------------------------------------------------------------------

    @property
    def is_component(self) -> bool:
        """``True`` if it serves requests from the queue."""
        return bool(self._declared)

    @property
    def failed(self) -> bool:
        """``True`` if it ended the process because it could not serve any more."""
        return self._host is not None and self._host.failed

    @property
    def capacity(self) -> int:
        """The number of requests that it takes at a time."""
        return self._slots if self._host is None else self._host.capacity

    @property
    def expected(self) -> dict[tuple[str, str], int]:
        """Component address → number of instances that there must be by its settings, of those that requests need."""
        return {
            one.dynamo_address(): one.settings.needed
            for one in self.graph.components()
            if one.get_dynamo_endpoints() and not one.is_beside
        }

    @property
    def runtime(self) -> DistributedRuntime:
        """The process's connections; there once it is connected."""
        return self._services.runtime

    @property
    def instance(self) -> Any:
        """The live object of the hosted service."""
        return self._services.instances[self.service]

    def facts(self) -> dict[str, Any]:
        """Facts for Celery's ``inspect stats``; see :meth:`InstanceHost.facts`."""
        return self._connected.facts() | self._ports()

    def _ports(self) -> dict[str, int]:
        return {} if self._system is None else {"system_port": self._system.port}

    @property
    def _connected(self) -> InstanceHost:
        assert self._host is not None
        return self._host

    def _system_server(self) -> SystemServer | None:
        port = system_port(self.service.settings.system_port)
        if port is None:
            return None
        lag = HealthSettings.of(self.service.inner).max_lag
        return SystemServer(port, self._why_not, max_lag=lag)

    def _why_not(self) -> str:
        """Say why the process takes no work now; called in a thread."""
        if self._host is None or not self._services.connected:
            return "there is no connection to the Redis server"
        if self.is_component and not self._host.registered:
            return f"it is not registered; its state is {self._host.lifecycle.state}"
        return ""

    # -- life ---------------------------------------------------------------------------------------

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
        if self._system is not None:
            # First, so that probes find the process alive while it waits for Redis, or loads a model.
            await self._actors.start(self._system)
        self._actors.also(self._services.close)
        runtime = await self._services.connect()
        host = self._host = self._make_host(runtime)
        self._actors.also(host.stop)
        resolver = self._services.resolver
        resolver.host = host if self.is_component else None
        resolver.instance_id, resolver.expected = f"{self.lease:x}", self.expected
        started = partial(retry_at_start, away=self._wait)
        steps = runtime.client.store.check_scripts, host.connect, self._check_memory
        await asyncio.gather(*map(started, steps))
        return host.worker_context

    def _make_host(self, runtime: DistributedRuntime) -> InstanceHost:
        cap = self.service.settings.traffic.get("max_stream_bytes") or DEFAULT_CAP
        return InstanceHost(
            self.app, runtime, self.lease, slots=self._slots, health=HealthSettings.of(self.service.inner),
            on_dead=_end_process, probe=self._probe, component=self.service.component_name,
            engine_load=self._engine_load, serves=self.is_component, stream_cap=int(cap),
        )  # fmt: skip

    def _probe(self, hook: Hook) -> Awaitable[bool]:
        return probe(self.instance, hook)

    def _engine_load(self) -> Any:
        own = getattr(self.instance, "engine_load", None)
        return own() if callable(own) else None

    async def _check_memory(self) -> None:
        """Warn early of low memory, for which requests would be refused later."""
        memory = await memory_of(self.runtime.client.store)
        if self.is_component and memory.is_tight(self.capacity):
            event(
                "store.memory_low", used=memory.used, limit=memory.limit, slots=self.capacity,
                tokens_per_s=round(memory.tokens_per_s),
            )  # fmt: skip

    async def start(self, pool: Any = None) -> None:
        """Make the live objects, dependencies first; run their hooks; make the endpoints ready.

        Args:
            pool: Of the worker, which calls :meth:`enter` once it takes messages.
        """
        await self._actors.start(self._services)
        if self.http is not None:
            # Before it is registered: a port that is taken must leave nothing behind.
            await self._actors.start(self.http)
        await self._connected.start(pool)
        if self.is_component:
            self._connected.prepare(*map(self._hosted, self._declared))
            self._obey(pool)

    def _hosted(self, declared: DynamoEndpoint) -> HostedEndpoint:
        own = getattr(self.instance, "stats", None)
        return HostedEndpoint(
            declared, self.instance, stats=[partial(own, declared.name)] if callable(own) else [],
            limits=_limits_of(self.service), model=self._model(),
            facts={
                "extra": {"service": self.service.class_path} | self._ports(),
                "http": None if self.http is None else self.http.url,
            },
        )  # fmt: skip

    def _model(self) -> ModelCard | None:
        card = getattr(self.instance, "model_card", None)
        return card() if callable(card) else card

    def _obey(self, pool: Any) -> None:
        """Obey commands to sleep and to wake."""
        host, namespace = self._connected, self.service.namespace_name
        sleep = SleepController(host.lifecycle, self.app.consumer_gate, host.announce, self.instance, pool)
        desk = CommandHandler(self.runtime.client.store, namespace, sleep.handle)
        host.registration(namespace).on_control = desk.take

    async def enter(self) -> None:
        """Register, and look after what dead instances leave behind."""
        await self._keep_cards()
        await self._connected.enter()
        self.service.advance(ServiceState.RUNNING)
        tune_collector()
        event(
            "worker.start", component=self.service.component_name, instance_id=f"{self.lease:x}", pid=os.getpid(),
            capacity=self.capacity, queues=",".join(self.queues), gpus=os.environ.get("CUDA_VISIBLE_DEVICES"),
        )  # fmt: skip

    async def _keep_cards(self) -> None:
        """Let its models be listed while none of its instances runs, where there need not be any."""
        if not self.is_component or self.service.settings.needed:
            return
        hosted = [one.info(self.lease, self.capacity) for one in self._connected.hosted.values()]
        scales = Scales(self.runtime.client.store, self.service.namespace_name)
        await retry_until_up(
            self.runtime.client.store.commands,
            partial(
                scales.keep_cards,
                self.service.component_name,
                [one for one in hosted if one.model is not None],
            ),
        )

    async def announce(self) -> None:
        """Announce what can be called now, since the consumed queues have changed."""
        if self._host is not None:
            await self._host.announce()

    async def deregister(self) -> None:
        """Leave the registry; what runs goes on."""
        if self._host is not None:
            await self._host.deregister()

    async def stop(self) -> None:
        """Run the shutdown hooks, revoke the lease, close all connections; also where a hook raises."""
        await self.deregister()
        await self._actors.stop()
        event(
            "worker.stop", component=self.service.component_name, instance_id=f"{self.lease:x}", reason="stopped"
        )  # fmt: skip


def _end_process(reason: str) -> None:
    """Requeue what runs and end the process, which must be started anew."""
    signal.raise_signal(signal.SIGQUIT)


def _limits_of(service: DynamoService[Any]) -> dict[str, int | None]:
    """The limits of the component as a whole; BentoML's name of the first one is ``max_concurrency``."""
    given = service.settings.traffic
    concurrency = given.get("concurrency") or given.get("max_concurrency")
    seconds = given.get("timeout")
    return {
        "concurrency": concurrency,
        "max_queue": given.get("max_queue") or None,
        "timeout": round(seconds * 1000) if seconds else None,
    }


def _slots_of(service: DynamoService[Any]) -> int:
    """Requests that one process of it takes at a time: as configured, else what it says of itself, else 256.

    Raises:
        ConfigError: it says less than one.
    """
    configured = service.settings.concurrency
    if configured:
        return int(configured)
    own = getattr(service.inner, "slots", None)
    slots = own() if callable(own) else _SLOTS
    if slots < 1:
        raise ConfigError(f"{service.name}: slots must be at least 1, not {slots}")
    return int(slots)
