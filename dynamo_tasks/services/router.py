"""``Router``: chooses the Worker instance that serves a request, and hands the request on to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, ClassVar, NoReturn

from dynamo_tasks.config import DefaultName
from dynamo_tasks.errors import ConfigError
from dynamo_tasks.protocol.names import SESSION_HEADER, EndpointId
from dynamo_tasks.protocol.tokens import CompletionAggregate, TokenDelta
from dynamo_tasks.runtime.routing.chooser import Chooser, check_mode, kv_config
from dynamo_tasks.sdk import async_on_start, depends, dynamo_endpoint, get_resolver, service
from dynamo_tasks.sdk.context import current_context
from dynamo_tasks.services.worker import Worker

__all__ = ["Router"]

_ANY = 0
"""No instance has this lease: any one takes the request."""


@service(dynamo={"namespace": DefaultName("dynamo")})
class Router:
    """Stands between Frontend and Worker. A request keeps its id and its stream: there is no second one.

    Attributes:
        policy: ``random``, ``round_robin``, ``power_of_two``, ``least_loaded`` or ``kv``.
        router_mode: Dynamo's name for the policy, which it overrules.
        kv_router: Parameters of ``kv``: see :class:`~dynamo_tasks.router.costs.KvRouterConfig`.
        wait: Seconds that a request waits here for the first instance, before it fails with ``no_instances``.
    """

    worker = depends(Worker)

    policy: str = "power_of_two"
    router_mode: str | None = None
    kv_router: ClassVar[dict[str, Any]] = {}
    wait: float = 5.0
    config_extras = None  # a key that is not known is a mistake

    def __init__(self) -> None:
        self.check_settings()
        self._chooser: Chooser | None = None

    @classmethod
    def check_settings(cls) -> None:
        """Refuse a policy that cannot choose by itself, and parameters that it has not, before any process starts.

        Raises:
            ConfigError: lists those that can.
        """
        cls._mode()
        kv_config(cls.kv_router, "Router.kv_router")

    @classmethod
    def _mode(cls) -> str:
        if cls.router_mode is not None:
            return check_mode(cls.router_mode, "Router.router_mode")
        return check_mode(cls.policy, "Router.policy")

    @async_on_start
    async def watch(self) -> None:
        """Know the instances before the first request comes."""
        worker: Any = Worker  # under @service: more than its class
        namespace, component = worker.dynamo_address()
        config = kv_config(self.kv_router, "Router.kv_router")
        shared = self._runtime().registry
        self._chooser = await shared.chooser(namespace, component, self._mode(), config)

    @staticmethod
    def _runtime() -> Any:
        runtime = getattr(get_resolver(), "runtime", None)
        if runtime is None:
            raise ConfigError("the Router runs in a worker process of its own: `dynamo-tasks serve`")
        return runtime

    @dynamo_endpoint(aggregate=CompletionAggregate, policy="replay")
    async def generate(self, request: Any) -> AsyncIterator[TokenDelta]:
        """Forward to ``Worker.generate`` of the instance that the policy chooses."""
        yield await self._forward("generate", request)

    @dynamo_endpoint()
    async def embed(self, request: Any) -> dict[str, Any]:
        """Forward to ``Worker.embed`` of the instance that the policy chooses."""
        return await self._forward("embed", request)

    async def _forward(self, name: str, request: Any) -> NoReturn:
        worker: Any = Worker
        endpoint: EndpointId = worker.endpoint_id(name)
        context = current_context()
        if context is None:
            raise ConfigError("the Router forwards requests of the queue; call the Worker directly here")
        watcher = self._runtime().watcher(endpoint.namespace)
        if not watcher.of(endpoint) and watcher.takes(endpoint):
            context.forward(endpoint, _ANY)  # it waits in the queue of all, and one is started
        await watcher.wait_for(endpoint, 1, float(self.wait))
        assert self._chooser is not None
        session = str(context.headers.get(SESSION_HEADER) or "")
        chosen = await self._chooser.choose(endpoint, request, context.id, session)
        context.forward(endpoint, chosen.instance_id, late=chosen.late, marks=chosen.marks)
