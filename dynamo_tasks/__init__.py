"""dynamo-tasks: Celery for LLM inference; durable, resumable token streams on the Redis you already run.

Public names are loaded when they are first used, so that ``import dynamo_tasks`` stays cheap.
``app`` is the Celery application: ``celery -A dynamo_tasks worker``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamo_tasks.queue.client.result import StreamResult
    from dynamo_tasks.runtime.components.component import DistributedRuntime
    from dynamo_tasks.runtime.guest import install
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
    "install": "runtime.guest",
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


def __getattr__(name: str) -> Any:
    if name == "app":
        return importlib.import_module(f"{__name__}.runtime.celeryapp").default_app()
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "StreamResult":
        importlib.import_module(f"{__name__}.runtime.celeryapp")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
