"""Endpoints that a hosted service adds to its worker process, and takes away again, while it runs."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dynamo_tasks.errors import AlreadyRegisteredError, ConfigError
from dynamo_tasks.protocol.instances import InstanceInfo
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.queue.app import DynamoApp
from dynamo_tasks.queue.execution.handlers import Handler
from dynamo_tasks.queue.worker.consuming import abandon, consume
from dynamo_tasks.runtime.components.endpoint_config import EndpointConfig, PlainEndpoint
from dynamo_tasks.runtime.handler import EndpointHandler
from dynamo_tasks.runtime.hosting.instance import Instance
from dynamo_tasks.runtime.resolver import task_of

__all__ = ["Annex"]


@dataclass
class Annex:
    """The endpoints that a process serves beside its service; under the same lease, in the same namespace.

    Attributes:
        app: The Celery application.
        instance: Its registration.
        namespace: Where it is.
        handlers: The process's table.
        capacity: Slots of the process.
    """

    app: DynamoApp
    instance: Instance
    namespace: str
    handlers: dict[str, Handler]
    capacity: int

    def __post_init__(self) -> None:
        self._infos: dict[EndpointId, InstanceInfo] = {}
        self._changing = asyncio.Lock()

    async def add(self, endpoints: Mapping[EndpointId, EndpointConfig]) -> None:
        """Serve all endpoints of one more component; returns once requests are taken.

        Raises:
            AlreadyRegisteredError: this process serves one of them already; nothing was changed.
            ConfigError: it is in another namespace than the process.
        """
        async with self._changing:
            for endpoint in endpoints:
                self._check(endpoint)
            for endpoint, config in endpoints.items():
                self._handle(endpoint, config)
            infos = {endpoint: self._info(endpoint) for endpoint in endpoints}
            self._infos |= infos
            await self.instance.add(*infos.values())
            await consume(self.app.worker, self._queues(endpoints))

    def _check(self, endpoint: EndpointId) -> None:
        if endpoint.namespace != self.namespace:
            raise ConfigError(
                f"{endpoint} cannot be served here: this worker is in namespace {self.namespace!r}"
            )
        if str(endpoint) in self.handlers:
            raise AlreadyRegisteredError(f"this process serves {endpoint} already")

    def _handle(self, endpoint: EndpointId, config: EndpointConfig) -> None:
        declared = PlainEndpoint(endpoint, config)
        task_of(self.app, endpoint, declared)
        self.handlers[str(endpoint)] = EndpointHandler(declared, None)

    async def remove(self, endpoints: Iterable[EndpointId]) -> None:
        """Serve all endpoints of a component no more; what runs goes on. Harmless when repeated."""
        async with self._changing:
            infos = {one: self._infos.pop(one) for one in endpoints if one in self._infos}
            await abandon(self.app.worker, self._queues(infos))
            if infos:
                await self.instance.remove(*infos.values())
            for endpoint in infos:
                del self.handlers[str(endpoint)]
                self.app.tasks.unregister(str(endpoint))

    def _queues(self, endpoints: Iterable[EndpointId]) -> list[str]:
        """The component's queue; nobody calls an instance of it by name, so there are none of its own."""
        return list(dict.fromkeys(one.queue for one in endpoints))

    def _info(self, endpoint: EndpointId) -> InstanceInfo:
        lease = self.instance.lease
        return InstanceInfo(
            endpoint=endpoint.name, component=endpoint.component, namespace=endpoint.namespace, lease_id=lease,
            transport={"celery": endpoint.queue}, host=socket.gethostname(), pid=os.getpid(),
            started=time.time(), capacity=self.capacity,
        )  # fmt: skip
