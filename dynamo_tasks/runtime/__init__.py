"""The distributed runtime: components, clients, service hosts. Names are loaded when they are first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamo_tasks.runtime.celeryapp import default_app, default_resolver
    from dynamo_tasks.runtime.components.client import Client
    from dynamo_tasks.runtime.components.component import Component, DistributedRuntime, Endpoint, Namespace
    from dynamo_tasks.runtime.components.endpoint_config import EndpointConfig
    from dynamo_tasks.runtime.components.remote_call import Item

__all__ = [
    "Client",
    "Component",
    "DistributedRuntime",
    "Endpoint",
    "EndpointConfig",
    "Item",
    "Namespace",
    "default_app",
    "default_resolver",
]

_WHERE = {
    "Client": "components.client",
    "Item": "components.remote_call",
    "Component": "components.component",
    "DistributedRuntime": "components.component",
    "Endpoint": "components.component",
    "EndpointConfig": "components.endpoint_config",
    "Namespace": "components.component",
    "default_app": "celeryapp",
    "default_resolver": "celeryapp",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
