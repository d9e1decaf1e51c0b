"""Endpoints that a process knows as tasks: those of the graph it was configured with, and all it imported."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from dynamo_tasks.config.host.given import variable
from dynamo_tasks.errors import ConfigError
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.queue.app import DynamoApp
from dynamo_tasks.queue.client.task import EndpointTask
from dynamo_tasks.runtime.graphs import DEFAULT_GRAPH, configure_alone
from dynamo_tasks.runtime.resolver import task_of
from dynamo_tasks.sdk import DynamoEndpoint, DynamoService, load_graph
from dynamo_tasks.sdk.services.known import changes, declared_services

__all__ = ["Names"]

Service = DynamoService[Any]


class Names:
    """Keeps an application's tasks in step with the services of the process.

    Args:
        graph: Whether the process is configured with a graph: ``DYNAMO_GRAPH``, or the default one.
    """

    def __init__(self, *, graph: bool):
        self._graph = graph
        self._seen = -1
        self._names: dict[DynamoEndpoint, str] = {}

    def __call__(self, app: DynamoApp) -> None:
        """Register what was declared or configured since.

        Raises:
            ConfigError: ``DYNAMO_GRAPH`` names no graph.
        """
        if self._graph and not app.is_worker:
            self._graph = False
            self._load_graph()
        if changes() == self._seen:
            return
        for service in declared_services():
            # Settings of the environment that are not valid are reported at the first call.
            with suppress(ConfigError):
                configure_alone(service)
        self._seen = changes()
        for service in declared_services():
            if service.is_dynamo_component():
                self._enter(app, service)

    def _load_graph(self) -> None:
        """Import the graph; the default one only where the process has no services of its own."""
        target = variable("DYNAMO_GRAPH")
        if target or not any(service.is_dynamo_component() for service in declared_services()):
            load_graph(target or DEFAULT_GRAPH)

    def _enter(self, app: DynamoApp, service: Service) -> None:
        for declared in service.get_dynamo_endpoints().values():
            name, before = str(declared.id), self._names.get(declared)
            if before == name:
                continue
            if before is not None and _is_of(app, before, declared):
                del app._tasks[before]
            self._names[declared] = name
            task_of(app, EndpointId.parse(name), declared)


def _is_of(app: DynamoApp, name: str, declared: DynamoEndpoint) -> bool:
    """Return whether a task is that of an endpoint, which has another name by now."""
    task = app._tasks.get(name)
    return isinstance(task, EndpointTask) and task.declaration == (declared,)
