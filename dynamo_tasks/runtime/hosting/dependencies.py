"""The dependencies of a service, seen from the process that it lives in."""

from __future__ import annotations

from typing import Any

from dynamo_tasks.runtime.components.component import DistributedRuntime
from dynamo_tasks.sdk import DynamoService

__all__ = ["colocated", "start_service", "watch_dependencies"]

Service = DynamoService[Any]


def colocated(service: Service) -> list[Service]:
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


async def start_service(runtime: DistributedRuntime, service: Service, instances: dict[Service, Any]) -> None:
    """Link a service, make its instance and run its start hooks.

    Args:
        runtime: Connections of the process.
        service: The service; those that live with it have been started.
        instances: By service; the new one is added.
    """
    await watch_dependencies(runtime, service)
    service.link()
    instance = instances[service] = service()
    await service.on_startup(instance)


async def watch_dependencies(runtime: DistributedRuntime, service: Service) -> None:
    """Know the instances of the components that a service depends on, before it is made."""
    for dependency in service.dependencies.values():
        if dependency.endpoint_id is not None:
            await runtime.watch(dependency.endpoint_id.namespace)
        elif dependency.service is not None and dependency.service.is_dynamo_component():
            await runtime.watch(dependency.service.namespace_name)
