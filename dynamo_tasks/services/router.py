"""``Router``: chooses the Worker instance that serves a request, and hands the request on to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, NoReturn

from dynamo_tasks.config import DefaultName
from dynamo_tasks.errors import ConfigError
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.protocol.tokens import CompletionAggregate, TokenDelta
from dynamo_tasks.router import Recent, make_router
from dynamo_tasks.sdk import async_on_start, depends, dynamo_endpoint, get_resolver, service
from dynamo_tasks.sdk.context import current_context
from dynamo_tasks.services.worker import Worker

__all__ = ["Router"]

_POLICIES = ("random", "round_robin", "power_of_two", "least_loaded")


@service(dynamo={"namespace": DefaultName("dynamo")})
class Router:
    """Stands between Frontend and Worker. A request keeps its id and its stream: there is no second one.

    Attributes:
        policy: ``random``, ``round_robin``, ``power_of_two`` or ``least_loaded``.
        wait: Seconds that a request waits here for the first instance, before it fails with ``no_instances``.
    """

    worker = depends(Worker)

    policy: str = "power_of_two"
    wait: float = 5.0
    config_extras = None  # a key that is not known is a mistake

    def __init__(self) -> None:
        self.check_settings()
        self._router = make_router(self.policy)
        self._recent = Recent()

    @classmethod
    def check_settings(cls) -> None:
        """Refuse a policy that cannot choose by itself, before any process starts.

        Raises:
            ConfigError: lists those that can.
        """
        if cls.policy.replace("-", "_") not in _POLICIES:
            raise ConfigError(f"Router.policy: {cls.policy!r}; allowed: {', '.join(_POLICIES)}")

    @async_on_start
    async def watch(self) -> None:
        """Know the instances before the first request comes."""
        worker: Any = Worker  # under @service: more than its class
        await self._runtime().watch(worker.namespace_name)

    @staticmethod
    def _runtime() -> Any:
        runtime = getattr(get_resolver(), "runtime", None)
        if runtime is None:
            raise ConfigError("the Router runs in a worker process of its own: `dynamo-tasks serve`")
        return runtime

    @dynamo_endpoint(aggregate=CompletionAggregate, policy="replay")
    async def generate(self, request: Any) -> AsyncIterator[TokenDelta]:
        """Forward to ``Worker.generate`` of the instance that the policy chooses."""
        yield await self._forward("generate")

    @dynamo_endpoint()
    async def embed(self, request: Any) -> dict[str, Any]:
        """Forward to ``Worker.embed`` of the instance that the policy chooses."""
        return await self._forward("embed")

    async def _forward(self, name: str) -> NoReturn:
        worker: Any = Worker
        endpoint: EndpointId = worker.endpoint_id(name)
        context = current_context()
        if context is None:
            raise ConfigError("the Router forwards requests of the queue; call the Worker directly here")
        context.forward(endpoint, await self._choose(endpoint))

    async def _choose(self, endpoint: EndpointId) -> int:
        watcher = self._runtime().watcher(endpoint.namespace)
        await watcher.wait_for(endpoint, 1, float(self.wait))
        candidates = self._recent.adjust(watcher.candidates(endpoint), watcher.loads)
        chosen = self._router.choose(candidates).instance_id
        self._recent.sent(chosen)
        return chosen
