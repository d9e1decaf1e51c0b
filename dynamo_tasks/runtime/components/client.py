"""Clients of endpoints: which queue a call goes to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dynamo_tasks.config import suggest
from dynamo_tasks.errors import InvalidRequestError, UnknownEndpointError
from dynamo_tasks.protocol.events import EventId
from dynamo_tasks.protocol.instances import InstanceInfo
from dynamo_tasks.protocol.names import EndpointId, session_of
from dynamo_tasks.router import RoutingPolicy, make_router
from dynamo_tasks.runtime.components.remote_call import RemoteCall
from dynamo_tasks.runtime.routing.chooser import Chosen, kv_config
from dynamo_tasks.sdk import DynamoEndpoint, DynamoService
from dynamo_tasks.sdk.context import Context
from dynamo_tasks.store.client import StoreClient
from dynamo_tasks.store.redis.connection import in_time
from dynamo_tasks.store.streams.subscription import Subscription

if TYPE_CHECKING:
    from dynamo_tasks.runtime.components.component import DistributedRuntime

__all__ = ["Client", "RemoteClient"]

_POLICIES = ("random", "round_robin", "power_of_two", "least_loaded", "direct")


class Client:
    """A client of one endpoint, bound to the event loop of its runtime.

    ``generate`` uses the component's shared queue: idle workers pull. The others choose an instance.
    """

    def __init__(
        self, runtime: DistributedRuntime, endpoint: EndpointId, declared: DynamoEndpoint | None = None, *,
        annotated: bool = True,
    ):  # fmt: skip
        self.id = endpoint
        self.declared = declared
        self.annotated = annotated
        self._runtime = runtime
        self._routers: dict[str, RoutingPolicy] = {}

    @property
    def store(self) -> StoreClient:
        """The connections that it uses."""
        return self._runtime.client

    @property
    def name(self) -> str:
        """The endpoint's name."""
        return self.id.name

    @property
    def streaming(self) -> bool:
        """``True`` if the endpoint gives a stream: as declared, else as its live instances say."""
        if self.declared is not None:
            return self.declared.is_stream
        return all(info.streaming for info in self._runtime.watcher(self.id.namespace).of(self.id))

    def __call__(self, request: Any = None, *, context: Context | None = None) -> RemoteCall:
        """Call it; ``await`` gives the result."""
        return RemoteCall(self, request, self.id.queue, streaming=False, context=context)

    def generate(self, request: Any = None, *, context: Context | None = None) -> RemoteCall:
        """Call any instance through the shared queue; can be iterated directly and after ``await``.

        Args:
            request: JSON.
            context: What the call belongs to; by default the request that the caller serves.
        """
        return RemoteCall(self, request, self.id.queue, streaming=True, context=context)

    def _routed(
        self, policy: str, request: Any, context: Context | None, instance_id: int | None = None
    ) -> RemoteCall:
        router = self._routers.setdefault(policy, make_router(policy))
        watcher = self._runtime.watcher(self.id.namespace)
        chosen = router.choose(watcher.candidates(self.id), instance_id=instance_id)
        return RemoteCall(
            self, request, self.id.instance_queue(chosen.instance_id), streaming=True, context=context
        )

    def random(self, request: Any = None, *, context: Context | None = None) -> RemoteCall:
        """Call a random instance; raises ``NoInstancesError`` where there is none."""
        return self._routed("random", request, context)

    def round_robin(self, request: Any = None, *, context: Context | None = None) -> RemoteCall:
        """Call one instance after the other."""
        return self._routed("round_robin", request, context)

    def power_of_two(self, request: Any = None, *, context: Context | None = None) -> RemoteCall:
        """Call the less loaded of two random instances."""
        return self._routed("power_of_two", request, context)

    def least_loaded(self, request: Any = None, *, context: Context | None = None) -> RemoteCall:
        """Call the least loaded instance."""
        return self._routed("least_loaded", request, context)

    def kv(
        self, request: Any = None, *, session: str = "", context: Context | None = None, **parameters: Any
    ) -> RemoteCall:
        """Call the instance that answers soonest, by the cached beginning of the prompt and by load.

        Args:
            request: With a prompt: ``prompt_token_ids``, ``prompt`` or ``messages``.
            session: Name of the session that it belongs to; with ``router_session_affinity_ttl_secs``.
            context: What the call belongs to; by default the request that the caller serves.
            **parameters: See :class:`~dynamo_tasks.router.costs.KvRouterConfig`.

        Raises:
            ConfigError: an unknown parameter, or a value that is not allowed.
        """
        config = kv_config(parameters, "kv")

        async def choose(payload: Any, request_id: str) -> Chosen:
            shared = self._runtime.registry
            chooser = await shared.chooser(self.id.namespace, self.id.component, "kv", config)
            name = session_of("", session) if session else ""
            return await chooser.choose(self.id, payload, request_id, name)

        return RemoteCall(self, request, self.id.queue, streaming=True, context=context, choose=choose)

    def direct(self, request: Any, instance_id: int | str, *, context: Context | None = None) -> RemoteCall:
        """Call one instance; its id as a number or in hex.

        Raises:
            InvalidRequestError: that is no lease id.
            NoInstancesError: the instance does not live any more.
        """
        try:
            wanted = int(instance_id, 16) if isinstance(instance_id, str) else instance_id
        except ValueError:
            raise InvalidRequestError(
                f"instance_id {instance_id!r} is no lease id: a number, or the same in hex",
                param="instance_id",
            ) from None
        return self._routed("direct", request, context, wanted)

    def static(self, request: Any = None, *, context: Context | None = None) -> RemoteCall:
        """Call without looking at the registry: the shared queue."""
        return self.generate(request, context=context)

    def check(self) -> None:
        """Refuse an endpoint that the component's live instances don't have. Without any the call may wait.

        Raises:
            UnknownEndpointError: lists those that they have.
        """
        self._runtime.registry.unserved.check(self.id)
        if self.declared is not None:
            return
        infos = self._runtime.watcher(self.id.namespace).instances
        known = {info.endpoint for info in infos if info.component == self.id.component}
        if known and self.id.name not in known:
            address = f"{self.id.namespace}.{self.id.component}"
            hint = suggest(self.id.name, known, label="available")
            raise UnknownEndpointError(f"{address} has no endpoint {self.id.name!r}{hint}")

    def instance_ids(self) -> list[int]:
        """Lease ids of the live instances."""
        return [info.lease_id for info in self._runtime.watcher(self.id.namespace).of(self.id)]

    async def wait_for_instances(self, n: int = 1, timeout: float | None = None) -> list[InstanceInfo]:
        """Wait until ``n`` instances serve the endpoint.

        Raises:
            NoInstancesError: not within ``timeout`` seconds.
        """
        return await self._runtime.watcher(self.id.namespace).wait_for(self.id, n, timeout)

    async def attach(self, request_id: str, after: str | None = None) -> Subscription:
        """Read a request by its id."""
        position = EventId.parse(after) if after else None
        async with in_time():
            return await self.store.reader.join(request_id, after=position, namespace=self.id.namespace)


class RemoteClient:
    """The client that ``depends()`` gives for a service in another process: one attribute per endpoint."""

    def __init__(self, runtime: DistributedRuntime, target: DynamoService[Any] | EndpointId):
        self._runtime = runtime
        self._target = target

    def __repr__(self) -> str:
        name = self._target if isinstance(self._target, EndpointId) else self._target.name
        return f"<RemoteClient of {name}>"

    def __getattr__(self, name: str) -> Client:
        if name.startswith("_"):
            raise AttributeError(name)
        found = self.__dict__[name] = self._client(name)
        return found

    async def get_endpoint(self, name: str) -> Client:
        """One endpoint by its name.

        Raises:
            UnknownEndpointError: there is none; lists those that are there.
        """
        return self._client(name)

    def _client(self, name: str) -> Client:
        target = self._target
        if not isinstance(target, EndpointId):
            declared = target.find_endpoint(name)
            return Client(self._runtime, declared.id, declared, annotated=False)
        if name not in (target.name, target.name.replace("/", "_").replace("-", "_"), "generate"):
            raise UnknownEndpointError(f"{target.url} has the endpoint {target.name!r}, not {name!r}")
        return Client(self._runtime, target, annotated=False)
