"""Endpoints that plain code serves: a function, an event loop, no service class.

The order of a start: the process's service group (one consumer for all of its endpoints), the service endpoint (a
Celery task), the handler, listening; then registration.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import socket
import time
from typing import Any

from dynamo_tasks.errors import AlreadyRegisteredError, InstanceDeadError
from dynamo_tasks.protocol.instances import InstanceInfo, Load
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.queue.app import create_app
from dynamo_tasks.queue.execution.context import WorkerContext
from dynamo_tasks.queue.execution.handlers import Handler
from dynamo_tasks.queue.execution.telemetry import meters_of
from dynamo_tasks.queue.worker.embedded import EmbeddedWorker
from dynamo_tasks.runtime.components.endpoint_config import EndpointConfig, PlainEndpoint
from dynamo_tasks.runtime.components.registry import Registry
from dynamo_tasks.runtime.handler import EndpointHandler
from dynamo_tasks.runtime.hosting.announcing import Announcements
from dynamo_tasks.runtime.hosting.health_gate import HealthGate
from dynamo_tasks.runtime.hosting.instance import Instance
from dynamo_tasks.runtime.hosting.lifecycle import InstanceState, Lifecycle
from dynamo_tasks.runtime.resolver import task_of
from dynamo_tasks.runtime.supervision.health import HealthMonitor, HealthSettings
from dynamo_tasks.runtime.supervision.recoverer import Recoverer
from dynamo_tasks.runtime.supervision.sweeper import Sweeper
from dynamo_tasks.sdk.hooks import Hook
from dynamo_tasks.store.client import StoreClient
from dynamo_tasks.store.registry import new_lease

__all__ = ["ServiceGroup"]

CAPACITY = 256


class ServiceGroup:
    """All endpoints that plain code serves in this process: one lease, one consumer.

    Attributes:
        queues: What the consumer takes messages from.
        capacity: Slots.
        lease: Id of the instance.
        configs: What it serves, by endpoint.
        lifecycle: State of the instance.

    Args:
        client: Connections to Redis.
        registry: The process's.
        health: Times of the health checks.
        capacity: Slots.
    """

    def __init__(
        self, client: StoreClient, registry: Registry, health: HealthSettings, *, capacity: int = CAPACITY
    ):
        self._client = client
        self._registry = registry
        self.capacity = capacity
        self.lease = new_lease()
        self.failed = False
        self.queues: list[str] = []
        self.configs: dict[EndpointId, EndpointConfig] = {}
        self.lifecycle = Lifecycle("", self.lease)
        self._handlers: dict[str, Handler] = {}
        self._checked: list[EndpointHandler] = []
        self._executor = WorkerContext(client.store, self.lease, self._handlers)
        self._instances: dict[str, Instance] = {}
        self._infos: dict[str, list[InstanceInfo]] = {}
        self._helpers = (Sweeper(client.store), Recoverer(client.store))
        self._worker: EmbeddedWorker | None = None
        self._announced = Announcements()
        self._adding = asyncio.Lock()
        self._ended = asyncio.Event()
        self._died_of = ""
        self._dying: asyncio.Task[None] | None = None
        address = client.store.address
        self._app = create_app(
            "dynamo_tasks_serving",
            server_url=address.url,
            make_host=lambda *_, **__: self,
            key_prefix=client.store.prefix,
        )
        gate = HealthGate(self.lifecycle, self._app.consumer_gate, self._instances.values)
        self._health = HealthMonitor(
            health, self._ask, lambda: self._checked, busy=lambda: self._executor.in_flight > 0,
            on_result=gate.result, on_dead=self._dead,
        )  # fmt: skip

    async def add(self, endpoint: EndpointId, config: EndpointConfig) -> InstanceInfo:
        """Serve one more endpoint; see :meth:`EndpointConfigBuilder.start`."""
        declared = PlainEndpoint(endpoint, config)
        async with self._adding:
            if str(endpoint) in self._handlers:
                raise AlreadyRegisteredError(f"this process serves {endpoint} already")
            task_of(self._app, endpoint, declared)
            handler = EndpointHandler(declared, None)
            self._handlers[str(endpoint)] = handler
            self._checked.append(handler)
            self.configs[endpoint] = config
            self.lifecycle.component = ",".join(sorted({one.component for one in self.configs}))
            self._registry.add_stats(endpoint, meters_of(endpoint).stats)
            if config.stats_handler is not None:
                self._registry.add_stats(endpoint, config.stats_handler)
            info = self._info(endpoint, config, declared)
            try:
                await self._listen(endpoint)
                await self._register(info)
            except BaseException:
                self._forget(endpoint)
                raise
            if self.lifecycle.state is InstanceState.REGISTERED:
                self.lifecycle.advance(InstanceState.RUNNING)
                await self._health.start()
            return info

    def _forget(self, endpoint: EndpointId) -> None:
        """Drop what is known of an endpoint that could not be served, so that its start can be tried again."""
        handler = self._handlers.pop(str(endpoint))
        self._checked = [one for one in self._checked if one is not handler]
        del self.configs[endpoint]

    async def _ask(self, hook: Hook) -> bool:
        """Ask the probes of all endpoints."""
        for config in list(self.configs.values()):
            probe = config.liveness if hook == "liveness" else config.readiness
            answer = probe() if probe is not None else None
            if not _is_yes(await answer if inspect.isawaitable(answer) else answer):
                return False
        return True

    def _dead(self, reason: str) -> None:
        """Hand over what runs, and end serving; :meth:`wait_closed` reports it to the program."""
        self.lifecycle.report("instance.dead", reason)
        self._died_of = reason
        self._dying = asyncio.create_task(self.close(requeue=True), name="dying")

    def _info(self, endpoint: EndpointId, config: EndpointConfig, declared: PlainEndpoint) -> InstanceInfo:
        return InstanceInfo(
            endpoint=endpoint.name, component=endpoint.component, namespace=endpoint.namespace, lease_id=self.lease,
            transport={"celery": endpoint.instance_queue(self.lease)}, host=socket.gethostname(), pid=os.getpid(),
            started=time.time(), streaming=declared.is_stream, capacity=self.capacity, model=config.model,
        )  # fmt: skip

    async def _register(self, info: InstanceInfo) -> None:
        known = self._instances.get(info.namespace)
        if known is not None:
            await known.add(info)
            return
        instance = self._instances[info.namespace] = Instance(
            self._client.store, info.namespace, self.lease, load=self._load, on_command=self._executor.on_command,
            running=self._executor.running_ids, stats=self._registry.stats,
        )  # fmt: skip
        try:
            await instance.start([info])
        except BaseException:
            del self._instances[info.namespace]
            raise
        if self.lifecycle.state is InstanceState.CREATED:
            self.lifecycle.advance(InstanceState.REGISTERED)

    def _load(self) -> Load:
        return Load(
            in_flight=self._executor.in_flight, tokens=self._executor.tokens,
            capacity=self.capacity if self._worker is None else self._worker.slots, state=self.lifecycle.state,
        )  # fmt: skip

    async def _listen(self, endpoint: EndpointId) -> None:
        wanted = [endpoint.queue, endpoint.instance_queue(self.lease)]
        queues = [queue for queue in wanted if queue not in self.queues]
        self.queues += queues
        if self._worker is not None:
            await self._worker.consume(queues)
            return
        await self.connect()
        self._worker = EmbeddedWorker(self._app, self)
        await self._worker.begin()

    async def consumes(self, queue: str, *, consumed: bool) -> None:
        """Follow a queue that is consumed from now on, or no more."""
        await self._announced.follow(self._instances.values(), queue, consumed=consumed)

    async def connect(self) -> WorkerContext:
        """Start the executor of requests."""
        await self._executor.start()
        self._app.worker_context = self._executor
        return self._executor

    async def start(self, pool: Any) -> None:
        """Sweep and recover from now on, as every worker does."""
        for helper in self._helpers:
            await helper.start()

    async def enter(self) -> None:
        """Do nothing: each endpoint registers by itself."""

    async def deregister(self) -> None:
        """Leave the registry; what runs goes on."""
        await self._health.stop()
        self.lifecycle.advance(InstanceState.STOPPING)
        for instance in self._instances.values():
            await instance.deregister()

    async def stop(self) -> None:
        """Revoke the lease and close, since the worker has ended."""
        for helper in self._helpers:
            await helper.stop()
        await self._executor.close()
        for instance in self._instances.values():
            await instance.stop()
        self.lifecycle.advance(InstanceState.DEREGISTERED)

    async def close(self, *, requeue: bool = False) -> None:
        """Take no more requests, finish what runs, leave; idempotent.

        Args:
            requeue: What runs goes to other instances instead.
        """
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.end(requeue=requeue)
            self._app.close()
        self._ended.set()

    async def wait_closed(self) -> None:
        """Wait until the runtime is closed.

        Raises:
            InstanceDeadError: a liveness probe said no.
        """
        await self._ended.wait()
        if self._died_of:
            raise InstanceDeadError(f"this process serves no more: {self._died_of}")


def _is_yes(answer: bool | None) -> bool:
    return answer is None or bool(answer)
