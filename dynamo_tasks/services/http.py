"""HTTP for services: the routes of their ``@api`` methods."""

from __future__ import annotations

from typing import Any

from dynamo_tasks.frontend.api_routes import ApiRoute
from dynamo_tasks.sdk import ApiMethod
from dynamo_tasks.sdk.declared import collect

__all__ = ["api_routes", "serves_http"]


def api_routes(instance: Any) -> list[ApiRoute]:
    """The ``@api`` methods of a live service."""
    return [
        ApiRoute(
            name=method.name,
            path=method.route,
            handler=getattr(instance, method.attribute),
            method=method.method,
            kind=method.kind,
        )
        for method in collect(type(instance), ApiMethod).values()
    ]


def serves_http(service: type) -> bool:
    """Whether a service class listens by itself, at its own ``host`` and ``port``, as the Frontend does."""
    return bool(getattr(service, "__serves_http__", False))
