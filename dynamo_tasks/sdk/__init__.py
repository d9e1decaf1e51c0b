"""Declarations of services: ``@service``, ``@dynamo_endpoint``, ``@api``, ``depends``, hooks, graphs. No I/O.

Example:
    >>> @service(dynamo={"namespace": "dynamo"})
    ... class Worker:
    ...     @dynamo_endpoint()
    ...     async def generate(self, request: dict):
    ...         yield {"text": request["prompt"]}
    >>> str(Worker.endpoint_id("generate"))
    'dynamo.Worker.generate'
"""

from dynamo_tasks.sdk.decorator import service
from dynamo_tasks.sdk.depends import DynamoDependency, depends
from dynamo_tasks.sdk.endpoints.api import ApiMethod, api
from dynamo_tasks.sdk.endpoints.calls import Call, LocalClient, LocalEndpoint
from dynamo_tasks.sdk.endpoints.endpoint import DynamoEndpoint, dynamo_endpoint, endpoint
from dynamo_tasks.sdk.endpoints.payloads import to_plain
from dynamo_tasks.sdk.graph import Graph, load_graph, load_service
from dynamo_tasks.sdk.hooks import (
    async_on_start,
    collect_hooks,
    liveness,
    on_shutdown,
    probe,
    readiness,
    run_hooks,
)
from dynamo_tasks.sdk.resolver import Resolver, TaskLike, get_resolver, set_resolver
from dynamo_tasks.sdk.services.dynamo_config import DynamoConfig
from dynamo_tasks.sdk.services.lifecycle import ServiceState
from dynamo_tasks.sdk.services.service import DynamoService
from dynamo_tasks.sdk.services.service_config import ServiceConfig

__all__ = [
    "ApiMethod",
    "Call",
    "DynamoConfig",
    "DynamoDependency",
    "DynamoEndpoint",
    "DynamoService",
    "Graph",
    "LocalClient",
    "LocalEndpoint",
    "Resolver",
    "ServiceConfig",
    "ServiceState",
    "TaskLike",
    "api",
    "async_on_start",
    "collect_hooks",
    "depends",
    "dynamo_endpoint",
    "endpoint",
    "get_resolver",
    "liveness",
    "load_graph",
    "load_service",
    "on_shutdown",
    "probe",
    "readiness",
    "run_hooks",
    "service",
    "set_resolver",
    "to_plain",
]
