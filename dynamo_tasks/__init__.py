"""dynamo-tasks: Celery for LLM inference; durable, resumable token streams on the Redis you already run.

Public names are loaded when they are first used, so that ``import dynamo_tasks`` stays cheap.
``app`` is the Celery application: ``celery -A dynamo_tasks worker``.

What each package is for stands in docs/packages.md; words that the code uses in a meaning of its own, in
docs/glossary.md.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dynamo_tasks import wiring as _wiring

if TYPE_CHECKING:
    from dynamo_tasks.queue.client.result import StreamResult
    from dynamo_tasks.runtime.components.component import DistributedRuntime
    from dynamo_tasks.runtime.install import install
    from dynamo_tasks.sdk import (
        ServiceConfig,
        api,
        async_on_start,
        depends,
        dynamo_endpoint,
        endpoint,
        liveness,
        on_shutdown,
        readiness,
        service,
    )
    from dynamo_tasks.sdk.context import Context, current_context

    app: Any

__version__ = "0.1.0"

__all__ = [
    "Context",
    "DistributedRuntime",
    "ServiceConfig",
    "StreamResult",
    "api",
    "app",
    "async_on_start",
    "current_context",
    "depends",
    "dynamo_endpoint",
    "endpoint",
    "install",
    "liveness",
    "on_shutdown",
    "readiness",
    "service",
]

_WHERE = {
    "StreamResult": "queue.client.result",
    "DistributedRuntime": "runtime.components.component",
    "install": "runtime.install",
    "ServiceConfig": "sdk",
    "Context": "sdk.context",
    "current_context": "sdk.context",
    "api": "sdk",
    "async_on_start": "sdk",
    "depends": "sdk",
    "dynamo_endpoint": "sdk",
    "endpoint": "sdk",
    "liveness": "sdk",
    "on_shutdown": "sdk",
    "readiness": "sdk",
    "service": "sdk",
}


def _default_app() -> Any:
    from dynamo_tasks.runtime.celeryapp import default_app

    return default_app()


def _default_resolver() -> Any:
    from dynamo_tasks.runtime.celeryapp import default_resolver

    return default_resolver()


def _process_services(service: Any, instance: object) -> Any:
    from dynamo_tasks.runtime.hosting.services import ProcessServices

    return ProcessServices(_wiring.default_app(), service, instance)


def _api_server(*args: Any, **kwargs: Any) -> Any:
    from dynamo_tasks.services.http_host import ApiServer

    return ApiServer(*args, **kwargs)


def _plain_endpoints(runtime: Any) -> Any:
    # Clients need nothing of Celery's worker, which takes long to import.
    from dynamo_tasks.runtime.hosting.embedded_host import EmbeddedHost

    return EmbeddedHost(runtime)


def _ray_environment() -> Any:
    from dynamo_tasks.pipelines.ray.environment import RayEnvironment

    return RayEnvironment


_wiring.default_app.fill(_default_app)
_wiring.default_resolver.fill(_default_resolver)
_wiring.process_services.fill(_process_services)
_wiring.api_server.fill(_api_server)
_wiring.plain_endpoints.fill(_plain_endpoints)
_wiring.ray_environment.fill(_ray_environment)


def __getattr__(name: str) -> Any:
    if name == "app":
        return _default_app()
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
