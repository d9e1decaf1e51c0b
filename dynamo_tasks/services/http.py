"""HTTP for services: the routes of their ``@api`` methods."""

from __future__ import annotations

from typing import Any

from dynamo_tasks.frontend.access.configured import HOSTS, PAGES, is_loopback, keys_from, listed
from dynamo_tasks.frontend.api_routes import ApiRoute
from dynamo_tasks.frontend.settings import FrontendSettings
from dynamo_tasks.observe import log
from dynamo_tasks.sdk import ApiMethod
from dynamo_tasks.sdk.endpoints.declared import collect

__all__ = ["api_routes", "http_settings", "serves_http", "warn_if_open"]


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
    """Return whether a service class listens by itself, at its own ``host`` and ``port``, as Frontend does."""
    return bool(getattr(service, "__serves_http__", False))


def http_settings(owner: Any, host: str) -> FrontendSettings:
    """Access settings of a service that is no Frontend: by its attributes, else by the environment.

    Args:
        owner: The service, or its class.
        host: What it listens at.

    Raises:
        ConfigError: one of these is wrong.
    """
    return FrontendSettings(
        api_keys=keys_from(None),
        cors_origins=listed(PAGES, getattr(owner, "cors_origins", None)),
        allowed_hosts=listed(HOSTS, getattr(owner, "allowed_hosts", None)),
        host=host,
    )


def warn_if_open(settings: FrontendSettings) -> None:
    """Say so where other machines are served without a key; a container behind a proxy is meant to."""
    if not settings.api_keys and not is_loopback(settings.host):
        problem = (
            f"everybody who reaches {settings.host} is served, since there are no API keys (DYNAMO_API_KEYS)"
        )
        log.event("config.warning", key="host", problem=problem)
