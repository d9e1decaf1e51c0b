"""Configurations of endpoints that plain code serves: a function and its settings, built step by step."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.protocol.instances import InstanceInfo, ModelCard
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.runtime.components.registry import StatsHandler
from dynamo_tasks.sdk import DynamoEndpoint
from dynamo_tasks.sdk.context import current_context

if TYPE_CHECKING:
    from dynamo_tasks.runtime.components.component import Endpoint

__all__ = ["EndpointConfig", "EndpointConfigBuilder", "PlainEndpoint", "Probe"]

Probe: TypeAlias = Callable[[], bool | Awaitable[bool | None] | None]
"""Asked for health; ``None`` and true values mean yes."""


@dataclass(frozen=True, kw_only=True)
class EndpointConfig:
    """The configuration of an endpoint.

    Attributes:
        handler: ``f(request)`` or ``f(request, context)``: an async generator, coroutine, plain function or plain
            generator; its annotation is what requests are validated against.
        stats_handler: Adds to the numbers that :meth:`Component.scrape_stats` gathers.
        policy: What happens to a request whose owner was lost, as for ``@dynamo_endpoint``.
        model: Model card, for a frontend to find.
        health_check_payload: A request that shows whether it works, sent when it has long been idle.
        liveness: Whether the process is alive; if not, twice in a row, what it runs is requeued.
        readiness: Whether it can take work; if not, it leaves the registry until it can.
    """

    handler: Callable[..., Any]
    stats_handler: StatsHandler | None = None
    policy: str = "restart"
    model: ModelCard | None = None
    health_check_payload: Any = None
    liveness: Probe | None = None
    readiness: Probe | None = None


class EndpointConfigBuilder:
    """Puts an :class:`EndpointConfig` together, and starts the endpoint.

    Example::

        await component.endpoint("generate").endpoint_builder().handler(generate).start()
    """

    def __init__(self, endpoint: Endpoint, config: EndpointConfig | None = None):
        self._endpoint = endpoint
        self._config = config or EndpointConfig(handler=_missing)

    def handler(self, handler: Callable[..., Any]) -> Self:
        """Set the function that serves the requests."""
        self._config = replace(self._config, handler=handler)
        return self

    def stats_handler(self, handler: StatsHandler) -> Self:
        """Set the function that adds to the endpoint's stats."""
        self._config = replace(self._config, stats_handler=handler)
        return self

    def policy(self, policy: str) -> Self:
        """Set the policy: ``continue``, ``replay``, ``restart`` or ``fail``."""
        self._config = replace(self._config, policy=policy)
        return self

    def model(self, card: ModelCard) -> Self:
        """Set the model that it serves."""
        self._config = replace(self._config, model=card)
        return self

    def health_check_payload(self, payload: Any) -> Self:
        """Set a request that shows whether it works."""
        self._config = replace(self._config, health_check_payload=payload)
        return self

    def liveness(self, probe: Probe) -> Self:
        """Set the probe that says whether the process is alive."""
        self._config = replace(self._config, liveness=probe)
        return self

    def readiness(self, probe: Probe) -> Self:
        """Set the probe that says whether it can take work."""
        self._config = replace(self._config, readiness=probe)
        return self

    def build(self) -> EndpointConfig:
        """The configuration.

        Raises:
            ConfigError: no handler was given.
        """
        if self._config.handler is _missing:
            raise ConfigError(f"endpoint {self._endpoint.id} has no handler; call .handler(function) first")
        return self._config

    async def start(self) -> InstanceInfo:
        """Serve until the runtime is closed; returns once requests are taken.

        Raises:
            AlreadyRegisteredError: this process serves the endpoint already.
            ConfigError: no handler, or one that is no function.
        """
        return await self._endpoint.component.drt.serving.add(self._endpoint.id, self.build())


def _missing() -> None:
    """Stands for the handler that was not given."""


class PlainEndpoint(DynamoEndpoint):
    """A function or bound method in the shape of a declared endpoint."""

    def __init__(self, endpoint: EndpointId, config: EndpointConfig):
        super().__init__(
            getattr(config.handler, "__func__", config.handler),
            endpoint.name,
            policy=config.policy,
            health_check_payload=config.health_check_payload,
        )
        self._id = endpoint
        self._target = config.handler
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters = inspect.signature(self._target).parameters.values()
        self._parameters = [one for one in parameters if one.kind in kinds]

    @property
    def id(self) -> EndpointId:
        """Its address."""
        return self._id

    @cached_property
    def argument(self) -> inspect.Parameter | None:
        """The parameter that takes the request."""
        return self._parameters[0] if self._parameters else None

    def direct(self, instance: object) -> None:
        """Nothing: the function may take the context, too."""

    def call(self, instance: object, payload: Any) -> Any:
        """Call the function with a validated request, and the context where it takes one."""
        return self._target(*(payload, current_context())[: len(self._parameters)])
