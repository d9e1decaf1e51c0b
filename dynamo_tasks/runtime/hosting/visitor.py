"""A service whose process belongs to somebody else, e.g. ``bentoml serve``: its dependencies work there too.

It is not registered and serves nothing from the queue; it only calls.
"""

from __future__ import annotations

from typing import Any

from dynamo_tasks.runtime.components.component import DistributedRuntime
from dynamo_tasks.runtime.hosting.dependencies import colocated, start_service, watch_dependencies
from dynamo_tasks.runtime.resolver import RuntimeResolver
from dynamo_tasks.sdk import DynamoService, set_resolver
from dynamo_tasks.wiring import default_app

__all__ = ["Visitor"]


class Visitor:
    """Connects the dependencies of a service.

    Args:
        service: The service; somebody else has made its instance.
        instance: That one.
    """

    def __init__(self, service: DynamoService[Any], instance: object):
        self._service = service
        self._instances: dict[DynamoService[Any], Any] = {service: instance}
        self._runtime: DistributedRuntime | None = None

    async def start(self) -> None:
        """Connect to Redis, and start the plain services that live with this one.

        Raises:
            ServerUnavailableError: it cannot be reached.
        """
        app = default_app()
        self._runtime = await DistributedRuntime.create(app.server_url, prefix=app.key_prefix)
        set_resolver(RuntimeResolver(app, self._runtime, self._instances))
        *plain, _ = colocated(self._service)
        for service in plain:
            await start_service(self._runtime, service, self._instances)
        await watch_dependencies(self._runtime, self._service)
        self._service.link()

    async def stop(self) -> None:
        """Take all of that down."""
        *plain, _ = colocated(self._service)
        for service in reversed(plain):
            await service.on_shutdown(self._instances[service])
        set_resolver(None)
        if self._runtime is not None:
            await self._runtime.aclose()
