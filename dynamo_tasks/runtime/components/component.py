"""``DistributedRuntime``, ``Namespace``, ``Component``, ``Endpoint``: Dynamo's names for the hierarchy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from dynamo_tasks.config.host.redis_server import key_prefix, resolve_redis_url
from dynamo_tasks.errors import ConfigError, NoInstancesError
from dynamo_tasks.protocol.instances import InstanceInfo
from dynamo_tasks.protocol.names import EndpointId, Subject, check_component, check_endpoint, check_namespace
from dynamo_tasks.runtime.components.client import Client
from dynamo_tasks.runtime.components.registry import SharedObjects, StatsHandler
from dynamo_tasks.runtime.control import send_commands
from dynamo_tasks.runtime.supervision.health import HealthSettings
from dynamo_tasks.runtime.supervision.watcher import Watcher
from dynamo_tasks.store.client import StoreClient
from dynamo_tasks.store.redis.connection import OPERATION_TIMEOUT, in_time
from dynamo_tasks.store.topics.groups import ACK_WAIT
from dynamo_tasks.store.topics.subscriber import EventSubscription
from dynamo_tasks.wiring import plain_endpoints

if TYPE_CHECKING:
    from dynamo_tasks.runtime.components.endpoint_config import EndpointConfig, EndpointConfigBuilder
    from dynamo_tasks.runtime.hosting.embedded_host import EmbeddedHost

__all__ = ["Component", "DistributedRuntime", "Endpoint", "Namespace"]

_SLEEP_TIMEOUT = 300.0
"""Seconds that an engine may take to give memory back, or to load."""


class DistributedRuntime:
    """A process's way into the system; bound to the event loop that made it.

    Example::

        runtime = await DistributedRuntime.create()
        client = await runtime.namespace("dynamo").component("Worker").endpoint("generate").client()
        async for item in client.generate({"prompt": "hi"}):
            print(item.data())
    """

    def __init__(self, client: StoreClient, *, health_check: Mapping[str, float] | None = None):
        self.client = client
        self.health = HealthSettings.parse(health_check or {}, "DistributedRuntime")
        self.registry = SharedObjects(client)
        self._serving: EmbeddedHost | None = None

    @classmethod
    async def create(
        cls,
        url: str | None = None,
        *,
        prefix: str | None = None,
        health_check: Mapping[str, float] | None = None,
        timeout: float = 0.0,
    ) -> Self:
        """Connect.

        Args:
            url: Of the Redis server; ``DYNAMO_REDIS_URL``, else the embedded server, by default.
            prefix: What all keys start with, a Celery application's ``global_keyprefix``; ``DYNAMO_KEY_PREFIX`` by
                default.
            health_check: Times of the checks of what this process serves, as ``health_check`` of a service class.
            timeout: Seconds that a Redis server which cannot be reached, or refuses for the moment, is waited for;
                by default it is tried once.

        Raises:
            ConfigError: an unknown key in ``health_check``.
            ServerUnavailableError: it cannot be reached in time, or none is configured.
        """
        prefix = key_prefix() if prefix is None else prefix
        client = await StoreClient.connect(url or resolve_redis_url(), prefix=prefix, within=timeout)
        try:
            return cls(client, health_check=health_check)
        except ConfigError:
            await client.close()
            raise

    async def aclose(self) -> None:
        """Give all connections back."""
        if self._serving is not None:
            await self._serving.close()
        await self.registry.close()
        await self.client.close()

    shutdown = aclose

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def serving(self) -> EmbeddedHost:
        """The endpoints that plain code serves in this process."""
        if self._serving is None:
            self._serving = plain_endpoints(self)
        return self._serving

    def namespace(self, name: str) -> Namespace:
        """A namespace; raises ``InvalidNameError`` for a bad name."""
        return Namespace(self, check_namespace(name))

    async def watch(self, namespace: str) -> Watcher:
        """The watcher of a namespace; one per process and namespace."""
        async with in_time():
            return await self.registry.watch(namespace)

    def watcher(self, namespace: str) -> Watcher:
        """The watcher of a namespace, once it was started."""
        return self.registry.watchers[namespace]


class Namespace:
    """Isolates components: same names in two namespaces never meet."""

    def __init__(self, runtime: DistributedRuntime, name: str):
        self.runtime = runtime
        self.name = name

    def component(self, name: str) -> Component:
        """A component; raises ``InvalidNameError`` for a bad name."""
        return Component(self, check_component(name))

    async def instances(self) -> list[InstanceInfo]:
        """Everything that is registered here."""
        async with in_time():
            return await self.runtime.client.registry.instances(self.name)

    def subject(self, topic: str) -> Subject:
        """The subject of its own events, ``namespace.<ns>.<topic>``, or a full subject as it is."""
        return Subject.of(self.name, "", topic)

    async def publish(self, topic: str, payload: Any) -> str:
        """Publish an event of the namespace; see :meth:`Component.publish`."""
        async with in_time():
            return await self.runtime.registry.events.publish(self.subject(topic), payload)

    def subscribe(
        self,
        topic: str,
        since: str | float | None = None,
        *,
        group: str | None = None,
        ack_wait: float = ACK_WAIT,
    ) -> EventSubscription:
        """Read events of the namespace; see :meth:`Component.subscribe`."""
        events = self.runtime.registry.events
        return events.subscribe(self.subject(topic), since, group=group, ack_wait=ack_wait)


class Component:
    """A deployable service."""

    def __init__(self, namespace: Namespace, name: str):
        self.namespace = namespace
        self.name = name
        self.drt = namespace.runtime

    def endpoint(self, name: str) -> Endpoint:
        """An endpoint; raises ``InvalidNameError`` for a bad name."""
        return Endpoint(self, check_endpoint(name))

    def etcd_path(self) -> str:
        """Path in the registry, e.g. ``dynamo/components/processor``."""
        return f"{self.namespace.name}/components/{self.name}"

    registry_path = etcd_path

    def service_name(self) -> str:
        """Its Celery queue, e.g. ``dynamo|processor``."""
        return f"{self.namespace.name}|{self.name}"

    def path(self) -> str:
        """Logical path, e.g. ``dynamo/processor``."""
        return f"{self.namespace.name}/{self.name}"

    async def instances(self) -> list[InstanceInfo]:
        """Live registrations of its endpoints."""
        async with in_time():
            return await self.drt.client.registry.instances(self.namespace.name, self.name)

    def subject(self, topic: str) -> Subject:
        """The subject of its events, ``namespace.<ns>.component.<c>.<topic>``, or a full subject as it is."""
        return Subject.of(self.namespace.name, self.name, topic)

    async def publish(self, topic: str, payload: Any) -> str:
        """Publish an event to all subscribers, now and later; returns its id. None of them can hold it up.

        Args:
            topic: ``[A-Za-z0-9_-]+``.
            payload: JSON, at most 1 MiB.

        Raises:
            InvalidRequestError: the payload is not JSON.
            PayloadTooLargeError: it is too large.
            ServerUnavailableError: Redis cannot be reached.
        """
        async with in_time():
            return await self.drt.registry.events.publish(self.subject(topic), payload)

    def subscribe(
        self,
        topic: str,
        since: str | float | None = None,
        *,
        group: str | None = None,
        ack_wait: float = ACK_WAIT,
    ) -> EventSubscription:
        """Read events: ``async for event in component.subscribe("kv_events"): event.data()``.

        Args:
            topic: As published; or a full subject, ``namespace.dynamo.component.a.kv_events``: another component's.
            since: Id of the last event seen, or a Unix time: what came later is replayed. Only new ones by
                default, counted from the first iteration, or from ``await component.subscribe(...)``.
            group: Name of a durable consumer group: Redis keeps its position, its members share the events, and each
                is dealt with at least once. ``since`` is where a new group begins; with the oldest event by default.
            ack_wait: Seconds after which an event that a member took and did not deal with goes to another one.

        Raises:
            InvalidEventIdError: ``since`` is neither.
            InvalidNameError: a bad group name.
            InvalidRequestError: ``ack_wait`` is not above 0.
        """
        events = self.drt.registry.events
        return events.subscribe(self.subject(topic), since, group=group, ack_wait=ack_wait)

    async def scrape_stats(self, timeout: float = 1.0) -> dict[int, dict[str, Any]]:
        """Gather the stats of every instance: lease id → endpoint → numbers.

        Each endpoint reports ``requests``, ``errors``, ``processing_s``, ``average_s``, and what its stats
        handlers add.

        Args:
            timeout: Seconds; instances that have not answered by then are left out.
        """
        async with in_time(timeout + OPERATION_TIMEOUT):
            return await self.drt.registry.scrape(self.namespace.name, self.name, timeout)

    async def sleep(
        self, *, instance_id: str | None = None, level: int = 1, drain: float = 30.0
    ) -> dict[str, str]:
        """Put its instances, or one of them, to sleep: they serve nothing, and their engines give memory back.

        Args:
            instance_id: Of one of them; all by default.
            level: 1 = weights go to the host's memory, 2 = they are dropped and loaded anew.
            drain: Seconds that running requests have; what runs then goes to other instances.

        Returns:
            Instance id → ``asleep``.

        Raises:
            NoInstancesError: there is none.
            InvalidRequestError: what they serve cannot sleep.
            DynamoError: one could not; the others may sleep.
        """
        arguments = {"level": level, "drain": drain}
        return await self._command("sleep", arguments, instance_id, drain + _SLEEP_TIMEOUT)

    async def wake_up(self, *, instance_id: str | None = None) -> dict[str, str]:
        """Wake what sleeps; one that is awake stays so.

        Returns:
            Instance id → ``awake``.

        Raises:
            NoInstancesError: there is none.
            DynamoError: one could not wake; the others may be awake.
        """
        return await self._command("wake", {}, instance_id, _SLEEP_TIMEOUT)

    async def _command(
        self, op: str, arguments: dict[str, Any], instance_id: str | None, timeout: float
    ) -> dict[str, str]:
        found = {info.instance_id: info.lease_id for info in await self.instances()}
        leases = {name: lease for name, lease in found.items() if instance_id in (None, name)}
        if not leases:
            wanted = f"instance {instance_id} of {self.path()}" if instance_id else self.path()
            raise NoInstancesError(f"{wanted}: there is none")
        registry = self.drt.registry
        return await send_commands(
            self.drt.client.store,
            registry.channels,
            self.namespace.name,
            leases,
            op,
            arguments,
            timeout=timeout,
        )


class Endpoint:
    """A callable entry point of a component."""

    def __init__(self, component: Component, name: str):
        self.component = component
        self.name = name

    @property
    def id(self) -> EndpointId:
        """Its address."""
        return EndpointId(self.component.namespace.name, self.component.name, self.name)

    def stats_handler(self, handler: StatsHandler) -> None:
        """Add to what this process answers when the stats of the endpoint are gathered."""
        self.component.drt.registry.add_stats(self.id, handler)

    @property
    def endpoint_config(self) -> EndpointConfig | None:
        """The configuration by which plain code of this process serves it; ``None`` where none does."""
        serving = self.component.drt._serving
        return None if serving is None else serving.config(self.id)

    def endpoint_builder(self, config: EndpointConfig | None = None) -> EndpointConfigBuilder:
        """Serve it from plain code: ``await endpoint.endpoint_builder().handler(function).start()``.

        Args:
            config: What to begin with, e.g. the ``endpoint_config`` of another endpoint.
        """
        from dynamo_tasks.runtime.components.endpoint_config import EndpointConfigBuilder

        return EndpointConfigBuilder(self, config)

    async def serve_endpoint(self, handler: Callable[..., Any]) -> None:
        """Serve it with a function until the runtime is closed; Dynamo's name.

        Raises:
            AlreadyRegisteredError: this process serves the endpoint already.
            ConfigError: the handler is no function.
            InstanceDeadError: a liveness probe said no.
        """
        await self.endpoint_builder().handler(handler).start()
        await self.component.drt.serving.wait_closed()

    async def client(self, *, annotated: bool = True) -> Client:
        """A client; with ``annotated`` it gives items, else plain values."""
        await self.component.drt.watch(self.id.namespace)
        return Client(self.component.drt, self.id, annotated=annotated)
