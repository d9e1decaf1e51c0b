"""This process's view of the live instances of a namespace, and the gauges of the fleet that it makes.

Any frontend shows what the workers report with their leases; a worker shows the part of it that is its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from dynamo_tasks.errors import DynamoError, NoInstancesError
from dynamo_tasks.observe import enabled, event, metrics
from dynamo_tasks.protocol.instances import ASLEEP, InstanceInfo, Load
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.protocol.scale import Scale
from dynamo_tasks.router import Candidate
from dynamo_tasks.runtime.supervision.actor import Actor
from dynamo_tasks.store.redis.connection import Link
from dynamo_tasks.store.redis.containment import contained
from dynamo_tasks.store.redis.server import Store
from dynamo_tasks.store.redis.wire import Wire
from dynamo_tasks.store.registry import Registry
from dynamo_tasks.store.scales import Scales

__all__ = ["FleetGauges", "Watcher", "show_own"]


class FleetGauges:
    """Keeps the gauges of one namespace current; what has gone is shown as 0."""

    def __init__(self) -> None:
        self._endpoints: set[str] = set()
        self._models: set[str] = set()

    def update(self, instances: Iterable[InstanceInfo], loads: Mapping[int, Load]) -> None:
        """Take a new snapshot of the registry."""
        infos = list(instances)
        counts = Counter(info.id.label for info in infos)
        self._endpoints |= counts.keys()
        for endpoint in self._endpoints:
            metrics.gauge("instances", endpoint=endpoint).set(counts[endpoint])
        by_model: dict[str, dict[int, Load]] = {}
        for info in infos:
            if info.model is not None:
                by_model.setdefault(info.model.name, {})[info.lease_id] = loads.get(info.lease_id, Load())
        self._models |= by_model.keys()
        for model in self._models:
            _show(model, list(by_model.get(model, {}).values()))


def _show(model: str, loads: list[Load]) -> None:
    count = len(loads) or 1
    metrics.gauge("engine_running", model=model).set(sum(load.running for load in loads))
    metrics.gauge("engine_waiting", model=model).set(sum(load.waiting for load in loads))
    metrics.gauge("engine_kv_usage", model=model).set(sum(load.kv_usage for load in loads) / count)
    metrics.gauge("engine_prefix_hits", model=model).set(sum(load.prefix_hits for load in loads) / count)


def show_own(component: str, load: Load) -> None:
    """Gauges of this process's own engine."""
    metrics.gauge("instance_running", component=component).set(load.running)
    metrics.gauge("instance_waiting", component=component).set(load.waiting)
    metrics.gauge("instance_kv_usage", component=component).set(load.kv_usage)
    metrics.gauge("instance_prefix_hits", component=component).set(load.prefix_hits)


_RELIST = 1.0
_EXPIRED = 0.01
"""Seconds after the end of a lease at which its keys are gone for sure."""


class Watcher(Actor):
    """A snapshot of the registry, kept current by announcements, and listed anew every second.

    Every instance is on all lanes. It is the first one that is asked; while that is away, the next one.

    Args:
        stores: Of all lanes.
        namespace: Whose instances.
    """

    def __init__(self, stores: Sequence[Store], namespace: str):
        store = stores[0]
        self.name, self.namespace = f"watcher-{namespace}", namespace
        self._stores = stores
        self._registries = [Registry(one) for one in stores]
        self._link = Link(
            store.address, name="dynamo-tasks:watcher", on_ready=self._subscribe, on_message=self._announced
        )
        self._channel = store.keys(namespace).registry_channel
        self._changed = asyncio.Event()
        self._poke = asyncio.Event()
        self.instances: list[InstanceInfo] = []
        self.by_endpoint: dict[EndpointId, list[InstanceInfo]] = {}
        """The same by endpoint; none that nobody serves. Replaced as a whole, as :attr:`instances` is."""
        self.loads: dict[int, Load] = {}
        self.asleep: set[str] = set()
        """Components that have an instance which sleeps."""
        self.scales: dict[str, Scale] = {}
        """What is wanted, by component."""
        self.resting: list[InstanceInfo] = []
        """Registrations of models that no instance serves now, and one is started for as soon as a request comes."""
        self._scales = Scales(store, namespace)
        self._cards: list[InstanceInfo] = []
        self._relist_in = _RELIST
        self._gauges = FleetGauges()
        self._components: set[str] = set()

    async def _subscribe(self, wire: Wire) -> None:
        await wire.execute("SUBSCRIBE", self._channel)
        self._poke.set()

    def _announced(self, channel: bytes, payload: bytes) -> None:
        self._poke.set()

    async def start(self) -> None:
        """List once, then keep listing."""
        await self._link.start()
        await self._list()
        await super().start()

    async def stop(self) -> None:
        """End; idempotent."""
        await super().stop()
        await self._link.close()

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._relist_in):
                    await self._poke.wait()
            self._poke.clear()
            with contextlib.suppress(DynamoError), contained("registry", f"instances of {self.namespace}"):
                await self._list()

    @property
    def _registry(self) -> Registry:
        """The registry of the first lane that is there."""
        up = (one for one in self._registries if one.store.commands.connected)
        return next(up, self._registries[0])

    async def _list(self) -> None:
        registry = self._registry
        found = await registry.instances(self.namespace)
        instances = [info for info in found if info.endpoint != ASLEEP]
        self.asleep = {info.component for info in found if info.endpoint == ASLEEP}
        leases = {info.lease_id for info in instances}
        self.loads = await registry.loads(self.namespace, leases)
        # An instance that dies without a word is missed when its lease has run out, and not at the next round.
        left = await registry.time_left(self.namespace, leases)
        self._relist_in = min(_RELIST, left + _EXPIRED)
        self._report_new(instances)
        scales, cards = self.scales, self._cards
        if registry is self._registries[0]:
            scales, _ = await self._scales.read()
            cards = self._cards = await self._scales.cards()
        self.instances, self.by_endpoint = instances, {}
        for info in instances:
            self.by_endpoint.setdefault(info.id, []).append(info)
        self.scales = scales
        for name, scale in scales.items():
            if scale.wanted is not None:
                metrics.gauge("instances_wanted", component=f"{self.namespace}.{name}").set(scale.wanted)
        self.resting = [card for card in cards if card.id not in self.by_endpoint and not self._is_off(card)]
        self._components |= {*scales, *(info.component for info in (*instances, *cards))}
        self._gauges.update(instances, self.loads)
        # Wakes those that wait now; who comes later waits for the next change.
        self._changed.set()
        self._changed = asyncio.Event()

    async def show_requests(self) -> None:
        """Gauges of the requests that wait and run now, of each component that was ever seen here.

        Raises:
            ServerUnavailableError: Redis cannot be reached; they stay as they are.
        """
        counts: Counter[tuple[str, int]] = Counter()
        for store in self._stores:
            for name, both in (await Scales(store, self.namespace).open(self._components)).items():
                counts.update({(name, kind): count for kind, count in enumerate(both)})
        for name in self._components:
            waiting, running = counts[name, 0], counts[name, 1]
            metrics.gauge("requests_waiting", component=f"{self.namespace}.{name}").set(waiting)
            metrics.gauge("requests_running", component=f"{self.namespace}.{name}").set(running)

    def _report_new(self, instances: list[InstanceInfo]) -> None:
        if not enabled("instance.appeared"):
            return
        known = {(info.endpoint, info.lease_id) for info in self.instances}
        for info in instances:
            if (info.endpoint, info.lease_id) not in known:
                event(
                    "instance.appeared", endpoint=str(info.id), instance_id=info.instance_id, host=info.host
                )  # fmt: skip

    def _is_off(self, card: InstanceInfo) -> bool:
        scale = self.scales.get(card.component)
        return scale is not None and scale.off

    def takes(self, endpoint: EndpointId) -> bool:
        """Return whether requests for an endpoint are served: by an instance, or by one that is started for them."""
        if endpoint in self.by_endpoint or any(card.id == endpoint for card in self.resting):
            return True
        scale = self.scales.get(endpoint.component)
        return scale is not None and scale.rests

    def of(self, endpoint: EndpointId) -> list[InstanceInfo]:
        """Live instances of an endpoint."""
        return [*self.by_endpoint.get(endpoint, ())]

    def candidates(self, endpoint: EndpointId) -> list[Candidate]:
        """Live instances of an endpoint with their loads, for a router."""
        return [Candidate(info.lease_id, self.loads.get(info.lease_id, Load())) for info in self.of(endpoint)]

    async def wait_for(
        self, endpoint: EndpointId, n: int = 1, timeout: float | None = None
    ) -> list[InstanceInfo]:
        """Wait until at least ``n`` instances serve an endpoint.

        Raises:
            NoInstancesError: not within ``timeout`` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                while len(found := self.of(endpoint)) < n:
                    await self._changed.wait()
        except TimeoutError:
            raise NoInstancesError(
                f"{len(self.of(endpoint))} instances serve {endpoint} after {timeout} s, {n} wanted"
            ) from None
        return found
