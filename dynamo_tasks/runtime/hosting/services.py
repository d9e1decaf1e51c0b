"""The services of a process: made, linked, started, dependencies first; and taken down in the reverse order."""

from __future__ import annotations

from functools import partial
from typing import Any

from dynamo_tasks.queue.app import DynamoApp
from dynamo_tasks.runtime.components.component import DistributedRuntime
from dynamo_tasks.runtime.resolver import RuntimeResolver
from dynamo_tasks.sdk import DynamoService, ServiceState, set_resolver
from dynamo_tasks.store.redis.retry import retry_at_start

__all__ = ["ProcessServices"]

Service = DynamoService[Any]


class ProcessServices:
    """A service, and the plain ones that it depends on: they live in the same process.

    Args:
        app: The Celery application.
        service: The service.
        instance: Its live object, where somebody else makes that and runs its hooks (``bentoml serve``).
        wait: Whether to wait for a Redis server that cannot be reached yet.

    Attributes:
        instances: Live objects, by service.
        resolver: What declarations are bound to in this process, once it is connected.
    """

    def __init__(self, app: DynamoApp, service: Service, instance: object = None, *, wait: bool = False):
        self._app = app
        self._service = service
        self._wait = wait
        self.instances: dict[Service, Any] = {} if instance is None else {service: instance}
        self._ours: list[Service] = []
        self._runtime: DistributedRuntime | None = None

    @property
    def runtime(self) -> DistributedRuntime:
        """The process's connections; there once it is connected."""
        assert self._runtime is not None
        return self._runtime

    @property
    def connected(self) -> bool:
        """``True`` while Redis can be reached."""
        return self._runtime is not None and self._runtime.client.store.commands.connected

    async def connect(self) -> DistributedRuntime:
        """Connect to Redis.

        Raises:
            ServerUnavailableError: it cannot be reached.
        """
        create = partial(DistributedRuntime.create, self._app.server_urls, prefix=self._app.key_prefix)
        self._runtime = await retry_at_start(create, away=self._wait)
        self.resolver = RuntimeResolver(self._app, self._runtime, self.instances)
        set_resolver(self.resolver)
        return self._runtime

    async def start(self) -> None:
        """Make the live objects, dependencies first, and run their start hooks."""
        for service in _colocated(self._service):
            await self._watch_dependencies(service)
            service.link()
            if service not in self.instances:
                instance = self.instances[service] = service()
                self._ours.append(service)
                await service.on_startup(instance)

    async def _watch_dependencies(self, service: Service) -> None:
        """Know the instances of the components that a service depends on, before it is made."""
        for dependency in service.dependencies.values():
            if dependency.endpoint_id is not None:
                await self.runtime.watch(dependency.endpoint_id.namespace)
            elif dependency.service is not None and dependency.service.is_dynamo_component():
                await self.runtime.watch(dependency.service.namespace_name)

    async def stop(self) -> None:
        """Run the shutdown hooks, those of dependencies last."""
        while self._ours:
            service = self._ours.pop()
            if service.state is not ServiceState.STOPPING:
                await service.on_shutdown(self.instances[service])

    async def close(self) -> None:
        """Give the connections back."""
        set_resolver(None)
        if self._runtime is not None:
            await self._runtime.aclose()


def _colocated(service: Service) -> list[Service]:
    """The service and the plain ones that live with it, dependencies first."""
    found: list[Service] = []
    _collect(service, found, entry=True)
    return found


def _collect(service: Service, found: list[Service], *, entry: bool = False) -> None:
    """Collect dependencies first; components other than the entry live elsewhere."""
    if service in found or (service.is_dynamo_component() and not entry):
        return
    for dependency in service.dependencies.values():
        if dependency.service is not None:
            _collect(dependency.service, found)
    found.append(service)
