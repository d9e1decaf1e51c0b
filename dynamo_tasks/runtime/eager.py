"""Services in the process that calls them, for ``task_always_eager``."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
from typing import Any

from dynamo_tasks.runtime.graphs import configure_alone
from dynamo_tasks.runtime.resolver import RuntimeResolver
from dynamo_tasks.sdk import DynamoEndpoint, DynamoService, ServiceState, get_resolver
from dynamo_tasks.sdk.endpoints.handler import EndpointHandler
from dynamo_tasks.store.bridge import bridge

__all__ = ["EagerServices"]

_STOP_TIMEOUT = 5.0


class EagerServices:
    """One instance of each service that was called, and of all that it depends on; on the bridge's loop."""

    def __init__(self) -> None:
        self._started: dict[DynamoService[Any], object] = {}
        self._starting: asyncio.Lock | None = None

    async def handler(self, declared: DynamoEndpoint) -> EndpointHandler:
        """The handler of an endpoint; its service is started if it is not there yet."""
        assert declared.service is not None
        if self._starting is None:
            self._starting = asyncio.Lock()
            atexit.register(self._at_exit)
        async with self._starting:
            return EndpointHandler(declared, await self._instance(declared.service))

    async def _instance(self, service: DynamoService[Any]) -> object:
        if service in self._started:
            return self._started[service]
        configure_alone(service)
        resolver = get_resolver()
        assert isinstance(resolver, RuntimeResolver)
        for dependency in service.dependencies.values():
            if dependency.service is not None:
                await self._instance(dependency.service)
        instance = service()
        # From here on those who depend on it find it in this process.
        resolver.instances[service] = instance
        await service.on_startup(instance)
        if service.state is ServiceState.INITIALIZED:
            service.advance(ServiceState.RUNNING)
        self._started[service] = instance
        return instance

    def _at_exit(self) -> None:
        with contextlib.suppress(TimeoutError):
            bridge().call(self._stop(), _STOP_TIMEOUT)

    async def _stop(self) -> None:
        for service, instance in reversed(list(self._started.items())):
            await service.on_shutdown(instance)
        self._started.clear()
