"""A look at a namespace: what is wanted, which instances there are, what waits and runs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from dynamo_tasks.protocol.instances import ASLEEP, InstanceInfo, Load
from dynamo_tasks.protocol.scale import Scale
from dynamo_tasks.store.redis.server import Store
from dynamo_tasks.store.registry import Registry
from dynamo_tasks.store.scales import Scales

__all__ = ["ComponentView", "NamespaceView", "look"]


_OLDEST = 50
"""Requests of a namespace among which the oldest of each component is looked for."""


@dataclass(frozen=True)
class ComponentView:
    """One component: its instances and requests.

    Attributes:
        instances: Its registrations.
        loads: By their leases.
        waiting: Requests that wait for it.
        running: Requests that it runs.
        oldest_wait: Seconds for which the oldest of those that wait has waited.
        known: Whether its models are listed while none of it runs.
    """

    instances: tuple[InstanceInfo, ...] = ()
    loads: Mapping[int, Load] = field(default_factory=dict)
    waiting: int = 0
    running: int = 0
    known: bool = False
    oldest_wait: float = 0.0

    @property
    def leases(self) -> set[int]:
        """Of its instances."""
        return {one.lease_id for one in self.instances}

    @property
    def serves(self) -> bool:
        """``True`` if one of its instances does not sleep."""
        return any(one.endpoint != ASLEEP for one in self.instances)

    def mine(self) -> dict[int, Load]:
        """Loads of the instances on this machine, by their process ids."""
        here = os.uname().nodename
        return {one.pid: self.loads.get(one.lease_id, Load()) for one in self.instances if one.host == here}

    def pids(self) -> dict[int, int]:
        """Leases of the instances on this machine, by their process ids."""
        here = os.uname().nodename
        return {one.pid: one.lease_id for one in self.instances if one.host == here}


@dataclass(frozen=True)
class NamespaceView:
    """One namespace: what is wanted, and what there is.

    Attributes:
        now: Unix seconds by Redis's clock.
        scales: What is wanted, by component.
        components: What there is.
    """

    now: float
    scales: Mapping[str, Scale]
    components: Mapping[str, ComponentView]

    def of(self, component: str) -> ComponentView:
        """One component; empty where nothing is known of it."""
        return self.components.get(component, ComponentView())


async def look(store: Store, namespace: str, components: Iterable[str]) -> NamespaceView:
    """Look at some components of a namespace, and at those that share devices with them.

    Raises:
        ServerUnavailableError: Redis cannot be reached.
    """
    names = list(dict.fromkeys(components))
    wanted, registry = Scales(store, namespace), Registry(store)
    scales, now = await wanted.read()
    devices = {scales[name].share for name in names if name in scales} - {""}
    names += [name for name, scale in scales.items() if scale.share in devices and name not in names]
    infos = [info for info in await registry.instances(namespace) if info.component in names]
    loads = await registry.loads(namespace, {info.lease_id for info in infos})
    counts = await wanted.open(names)
    known = {info.component for info in await wanted.cards()}
    waits = await _oldest(store, namespace, [name for name in names if counts[name][0]], now)
    found = {}
    for name in names:
        mine = tuple(info for info in infos if info.component == name)
        leases = {info.lease_id for info in mine}
        waiting, running = counts[name]
        found[name] = ComponentView(
            mine,
            {lease: loads.get(lease, Load()) for lease in leases},
            waiting,
            running,
            name in known,
            waits.get(name, 0.0),
        )
    return NamespaceView(now, scales, found)


async def _oldest(store: Store, namespace: str, components: list[str], now: float) -> dict[str, float]:
    """Seconds for which the oldest request has waited, of each component whose oldest is among the oldest of all."""
    if not components:
        return {}
    keys = store.keys(namespace)
    rows = await store.commands.execute("ZRANGE", keys.queued, 0, _OLDEST - 1, "WITHSCORES")
    ids, since = rows[::2], [float(score) for score in rows[1::2]]
    wire = await store.commands.wire()
    asked = [["SISMEMBER", keys.waiting(name), one] for name in components for one in ids]
    here = iter(await wire.ask(asked) if asked else [])
    found = {}
    for name in components:
        moments = [moment for moment in since if next(here)]
        if moments:
            found[name] = max(0.0, now - min(moments) / 1000)
    return found
