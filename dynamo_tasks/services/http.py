"""HTTP for services: routes of their ``@api`` methods, their gateway to the queue, and news of API keys."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from dynamo_tasks.errors import ConfigError, DynamoError
from dynamo_tasks.frontend.access.configured import HOSTS, PAGES, is_loopback, keys_from, listed
from dynamo_tasks.frontend.access.known_keys import KnownKeys
from dynamo_tasks.frontend.api_routes import ApiRoute
from dynamo_tasks.frontend.model_names import ModelNames
from dynamo_tasks.frontend.settings import FrontendSettings
from dynamo_tasks.observe import log
from dynamo_tasks.protocol.jitter import jittered
from dynamo_tasks.router.costs import KvRouterConfig
from dynamo_tasks.runtime.resolver import RuntimeResolver
from dynamo_tasks.runtime.supervision.actor import Actor
from dynamo_tasks.sdk import ApiMethod
from dynamo_tasks.sdk.endpoints.declared import collect
from dynamo_tasks.services.gateway import RuntimeGateway
from dynamo_tasks.services.processor import Processor
from dynamo_tasks.services.worker import Worker

__all__ = ["KeyFollower", "api_routes", "gateway_of", "http_settings", "serves_http", "warn_if_open"]

_EVERY = 0.5


class KeyFollower(Actor):
    """Looks twice a second whether any key was changed.

    A question of one small field, rather than a subscription: what is lost with a connection is seen later all the
    same.
    """

    name = "key-follower"

    def __init__(self, known: KnownKeys):
        self._known = known

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(DynamoError):  # Redis is away: what needs it says so
                await self._known.follow()
            await asyncio.sleep(jittered(_EVERY, 0.8, 1.0))


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
    if not (settings.api_keys or settings.require_api_keys) and not is_loopback(settings.host):
        problem = (
            f"everybody who reaches {settings.host} is served, since there are no API keys (DYNAMO_API_KEYS)"
        )
        log.event("config.warning", key="host", problem=problem)


async def gateway_of(
    resolver: Any,
    router: Any = None,
    names: ModelNames | None = None,
    mode: str = "",
    config: KvRouterConfig | None = None,
) -> RuntimeGateway:
    """The gateway of a service that lives in a process of its own.

    Args:
        resolver: Of this process.
        router: Its dependency on the service that chooses the Worker, where the graph has one.
        names: Other names of models.
        mode: How the Worker instance of a request is chosen here; empty = it is not.
        config: Parameters of the mode ``kv``.

    Raises:
        ConfigError: The process hosts no service.
    """
    if not isinstance(resolver, RuntimeResolver) or resolver.runtime is None:
        raise ConfigError("this service runs in a process of its own: `dynamo-tasks serve`")
    worker: Any = Worker  # under @service: more than their classes
    processor: Any = Processor
    await resolver.runtime.watch(worker.namespace_name)
    if router is not None:
        await resolver.runtime.watch(router.service.namespace_name)
    chooser = None
    if mode and router is None:
        shared = resolver.runtime.registry
        namespace, component = worker.dynamo_address()
        chooser = await shared.chooser(namespace, component, mode, config or KvRouterConfig())
    local: Any = resolver.local(processor)
    if local is None:
        await resolver.runtime.watch(processor.namespace_name)
    return RuntimeGateway(
        resolver.runtime,
        worker.namespace_name,
        processor if local is None else local,
        resolver.expected,
        router=None if router is None else router.service,
        names=names,
        chooser=chooser,
    )
