"""Endpoints that plain code serves: a function, an event loop, no service class.

The order of a start: the process's service group (one consumer for all of its endpoints), the service endpoint (a
Celery task), the handler; then registration and listening side by side.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from dynamo_tasks.errors import AlreadyRegisteredError, ConfigError
from dynamo_tasks.protocol.instances import InstanceInfo, Load, ModelCard
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.queue.app import create_app
from dynamo_tasks.queue.embedded import EmbeddedWorker
from dynamo_tasks.queue.executor import Executor
from dynamo_tasks.queue.handlers import Handler
from dynamo_tasks.queue.meters import meters_of
from dynamo_tasks.runtime.handler import EndpointHandler
from dynamo_tasks.runtime.instance import Instance
from dynamo_tasks.runtime.recoverer import Recoverer
from dynamo_tasks.runtime.registry import Registry, StatsHandler
from dynamo_tasks.runtime.resolver import task_of
from dynamo_tasks.runtime.sweeper import Sweeper
from dynamo_tasks.sdk import DynamoEndpoint
from dynamo_tasks.sdk.context import current_context
from dynamo_tasks.store.client import StoreClient
from dynamo_tasks.store.registry import new_lease

if TYPE_CHECKING:
    from dynamo_tasks.runtime.component import Endpoint

__all__ = ["EndpointConfig", "EndpointConfigBuilder", "ServiceGroup"]

CAPACITY = 256


@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """How an endpoint is served.

    Attributes:
        handler: ``f(request)`` or ``f(request, context)``: an async generator, coroutine, plain function or plain
            generator; its annotation is what requests are validated against.
        stats_handler: Adds to the numbers that :meth:`Component.scrape_stats` gathers.
        policy: What happens to a request whose owner was lost, as for ``@dynamo_endpoint``.
        model: Model card, for a frontend to find.
    """

    handler: Callable[..., Any]
    stats_handler: StatsHandler | None = None
    policy: str = "restart"
    model: ModelCard | None = None


class EndpointConfigBuilder:
    """Puts an :class:`EndpointConfig` together, and starts the endpoint.

    Example::

        await component.endpoint("generate").endpoint_builder().handler(generate).start()
    """

    def __init__(self, endpoint: Endpoint):
        self._endpoint = endpoint
        self._config = EndpointConfig(handler=_missing)

    def handler(self, handler: Callable[..., Any]) -> Self:
        """What serves the requests."""
        self._config = replace(self._config, handler=handler)
        return self

    def stats_handler(self, handler: StatsHandler) -> Self:
        """What adds to the endpoint's stats."""
        self._config = replace(self._config, stats_handler=handler)
        return self

    def policy(self, policy: str) -> Self:
        """``continue``, ``replay``, ``restart`` or ``fail``."""
        self._config = replace(self._config, policy=policy)
        return self

    def model(self, card: ModelCard) -> Self:
        """The model that it serves."""
        self._config = replace(self._config, model=card)
        return self

    def build(self) -> EndpointConfig:
        """The configuration.

        Raises:
            ConfigError: no handler was given.
        """
        if self._config.handler is _missing:
            raise ConfigError(f"endpoint {self._endpoint.id} has no handler; call .handler(function) first")
        return self._config

    async def start(self) -> InstanceInfo:
        """Serve until the runtime is closed; returns once requests are taken.

        Raises:
            AlreadyRegisteredError: this process serves the endpoint already.
            ConfigError: no handler, or one that is no function.
        """
        return await self._endpoint.component.drt.serving.add(self._endpoint.id, self.build())


def _missing() -> None:
    """Stands for the handler that was not given."""


class _PlainEndpoint(DynamoEndpoint):
    """A function or bound method in the shape of a declared endpoint."""

    def __init__(self, endpoint: EndpointId, config: EndpointConfig):
        super().__init__(
            getattr(config.handler, "__func__", config.handler), endpoint.name, policy=config.policy
        )
        self._id = endpoint
        self._target = config.handler
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters = inspect.signature(self._target).parameters.values()
        self._parameters = [one for one in parameters if one.kind in kinds]

    @property
    def id(self) -> EndpointId:
        """Its address."""
        return self._id

    @cached_property
    def argument(self) -> inspect.Parameter | None:
        """The parameter that takes the request."""
        return self._parameters[0] if self._parameters else None

    def call(self, instance: object, payload: Any) -> Any:
        """Call the function with a validated request, and the context where it takes one."""
        return self._target(*(payload, current_context())[: len(self._parameters)])


class ServiceGroup:
    """All endpoints that plain code serves in this process: one lease, one consumer.

    Attributes:
        queues: What the consumer takes messages from.
        capacity: Slots.
        lease: Id of the instance.
    """

    def __init__(self, client: StoreClient, registry: Registry, *, capacity: int = CAPACITY):
        self._client = client
        self._registry = registry
        self.capacity = capacity
        self.lease = new_lease()
        self.failed = False
        self.queues: list[str] = []
        self._handlers: dict[str, Handler] = {}
        self._executor = Executor(client.store, self.lease, self._handlers)
        self._instances: dict[str, Instance] = {}
        self._infos: dict[str, list[InstanceInfo]] = {}
        self._helpers = (Sweeper(client.store), Recoverer(client.store))
        self._worker: EmbeddedWorker | None = None
        self._adding = asyncio.Lock()
        self._ended = asyncio.Event()
        address = client.store.address
        self._app = create_app(
            "dynamo_tasks_serving", server_url=address.url, make_host=lambda *_, **__: self
        )
        if client.store.prefix:
            self._app.conf.broker_transport_options["global_keyprefix"] = client.store.prefix

    async def add(self, endpoint: EndpointId, config: EndpointConfig) -> InstanceInfo:
        """Serve one more endpoint; see :meth:`EndpointConfigBuilder.start`."""
        declared = _PlainEndpoint(endpoint, config)
        async with self._adding:
            if str(endpoint) in self._handlers:
                raise AlreadyRegisteredError(f"this process serves {endpoint} already")
            task_of(self._app, endpoint, declared)
            self._handlers[str(endpoint)] = EndpointHandler(declared, None)
            self._registry.add_stats(endpoint, meters_of(endpoint).stats)
            if config.stats_handler is not None:
                self._registry.add_stats(endpoint, config.stats_handler)
            info = self._info(endpoint, config)
            await asyncio.gather(self._register(info), self._listen(endpoint))
            return info

    def _info(self, endpoint: EndpointId, config: EndpointConfig) -> InstanceInfo:
        return InstanceInfo(
            endpoint=endpoint.name, component=endpoint.component, namespace=endpoint.namespace, lease_id=self.lease,
            transport={"celery": endpoint.instance_queue(self.lease)}, host=socket.gethostname(), pid=os.getpid(),
            started=time.time(), capacity=self.capacity, model=config.model,
        )  # fmt: skip

    async def _register(self, info: InstanceInfo) -> None:
        known = self._instances.get(info.namespace)
        if known is not None:
            await known.add(info)
            return
        instance = self._instances[info.namespace] = Instance(
            self._client.store, info.namespace, self.lease, load=self._load, on_order=self._executor.order,
            running=self._executor.running_ids, stats=self._registry.stats,
        )  # fmt: skip
        await instance.start([info])

    def _load(self) -> Load:
        return Load(in_flight=self._executor.in_flight, capacity=self.capacity, tokens=self._executor.tokens)

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

    async def connect(self) -> Executor:
        """Start what runs requests."""
        await self._executor.start()
        self._app.executor = self._executor
        return self._executor

    async def start(self, pool: Any) -> None:
        """The worker starts: sweep and recover, as every worker does."""
        for helper in self._helpers:
            await helper.start()

    async def deregister(self) -> None:
        """Leave the registry; what runs goes on."""
        for instance in self._instances.values():
            await instance.deregister()

    async def stop(self) -> None:
        """The worker has ended: revoke the lease, close."""
        for helper in self._helpers:
            await helper.stop()
        await self._executor.close()
        for instance in self._instances.values():
            await instance.stop()

    async def close(self) -> None:
        """Take no more requests, finish what runs, leave; idempotent."""
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.end()
            self._app.close()
        self._ended.set()

    async def wait_closed(self) -> None:
        """Wait until the runtime is closed."""
        await self._ended.wait()
