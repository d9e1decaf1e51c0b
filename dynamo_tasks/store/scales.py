"""The numbers of instances that are wanted, per component; and the models that stay while no instance serves them.

All of a namespace is one hash, so that one command reads it: ``<component>:wanted``, ``:by``, ``:since`` (ms),
``:bounds`` (JSON) and ``:fleet:<serve>`` (JSON) of each component; and ``@lead:<unit>``, the ``serve`` that decides for
now about a unit: a component, or ``=<share>``, all that take turns on one device.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, TypeVar

import msgspec

from dynamo_tasks.errors import ConfigError, ProtocolError
from dynamo_tasks.protocol.events import UNREADABLE
from dynamo_tasks.protocol.instances import InstanceInfo
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.protocol.scale import Bounds, Fleet, Scale, ScaledBy
from dynamo_tasks.store.ledger.scripts import script
from dynamo_tasks.store.redis.containment import contained
from dynamo_tasks.store.redis.server import Store

__all__ = ["FLEET_TTL", "Scales", "read_cards", "read_scales"]

FLEET_TTL = 6.0
"""Seconds after which what a ``serve`` said of its processes is not believed any more."""
_FORGOTTEN = 60.0
_LEAD_MS = 3000

T = TypeVar("T")


def read_scales(pairs: list[bytes], now: float) -> dict[str, Scale]:
    """Read the hash of a namespace.

    Args:
        pairs: Reply of ``HGETALL``.
        now: Unix seconds by Redis's clock; fleets that were silent for long are left out.
    """
    found: dict[str, Scale] = {}
    for raw, value in zip(pairs[::2], pairs[1::2], strict=True):
        component, _, name = raw.decode(errors="replace").partition(":")
        if name and not component.startswith("@"):
            with contained("registry", f"scale of {component}"):
                _put(found.setdefault(component, Scale(component, fleets={})), name, value, now)
    return found


def _put(scale: Scale, name: str, value: bytes, now: float) -> None:
    if name == "wanted":
        scale.wanted = int(value)
    elif name == "by":
        scale.by = ScaledBy(value.decode())
    elif name == "since":
        scale.since = int(value) / 1000
    elif name == "bounds":
        scale.bounds = _decode(value, Bounds)
    elif name.startswith("fleet:"):
        fleet = _decode(value, Fleet)
        # A `serve` that says nothing any more has nothing.
        if now - fleet.at <= FLEET_TTL:
            scale.fleets[name.removeprefix("fleet:")] = fleet


def read_cards(values: Iterable[bytes]) -> list[InstanceInfo]:
    """Read the models that stay; passes over what cannot be read."""
    found = []
    for value in values:
        with contained("registry", "the card of a model"):
            found.append(InstanceInfo.decode(value))
    return found


def _decode(value: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(value, type=kind)
    except UNREADABLE as error:
        raise ProtocolError(f"what is wanted of a component cannot be read: {error}") from error


class Scales:
    """The wanted numbers of one namespace.

    Args:
        store: Redis.
        namespace: Its name.
    """

    def __init__(self, store: Store, namespace: str):
        self._store = store
        self._keys = store.keys(namespace)

    async def read(self) -> tuple[dict[str, Scale], float]:
        """Read what is wanted and there, by component; and the time by Redis's clock, Unix seconds.

        Raises:
            ServerUnavailableError: Redis cannot be reached.
        """
        wire = await self._store.commands.wire()
        (seconds, micros), pairs = await wire.ask([["TIME"], ["HGETALL", self._keys.scale]])
        now = int(seconds) + int(micros) / 1e6
        return read_scales(pairs, now), now

    async def want(self, component: str, wanted: int | None, by: ScaledBy, lead: str = "") -> bool:
        """Say how many instances are wanted.

        Args:
            component: Its name.
            wanted: A number; ``None`` = what is automatic decides again.
            by: Who says so.
            lead: Name of the ``serve`` that decides; empty = a person does.

        Returns:
            ``False`` where somebody's hand, another ``serve``, or another one's turn goes before.

        Raises:
            ConfigError: its bounds do not allow that many, or another component has their device by hand.
        """
        reply = await script("scale").run(
            self._store.commands, [self._keys.scale], component=component, wanted="" if wanted is None else wanted,
            by=by, lead=lead, channel=self._keys.registry_channel,
        )  # fmt: skip
        if reply[0] == b"TURN" and not lead:
            other = reply[1].decode()
            raise ConfigError(
                f"{component}: {other} has their device by hand; `dynamo-tasks scale {self._keys.namespace}.{other} "
                "auto` lets them take turns again"
            )
        if reply[0] == b"BOUNDS":
            scales, _ = await self.read()
            bounds = scales[component].bounds if component in scales else None
            (bounds or Bounds()).check(component, wanted or 0)
            raise ConfigError(f"{component}: {wanted} instances are not allowed by its `scale`")
        return bool(reply[0] == b"OK")

    async def lead(self, name: str, units: Collection[str]) -> set[str]:
        """Decide for the next moments, where no other ``serve`` does; returns the units that are led."""
        return await self._lead(name, units, _LEAD_MS)

    async def _lead(self, name: str, units: Collection[str], ttl: int) -> set[str]:
        if not units:
            return set()
        led = await script("lead").run(self._store.commands, [self._keys.scale], *units, name=name, ttl=ttl)
        return {unit for unit, mine in zip(units, led, strict=True) if mine}

    async def occupy(self, component: str, name: str, fleet: Fleet) -> bool:
        """Say that processes begin, if it is the component's turn and all others on its device are at rest.

        Args:
            component: Its name; its bounds have a share.
            name: Of the ``serve`` that is to start or wake them.
            fleet: What that one has of it then; noted only if it may.

        Returns:
            Whether they may begin.
        """
        reply = await script("occupy").run(
            self._store.commands, [self._keys.scale], component=component, name=name, fleet=_encode(fleet),
            ttl=int(FLEET_TTL * 1000),
        )  # fmt: skip
        return bool(reply)

    async def steps(self, components: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Priority steps of what waits for each of some components, and of what it runs: of the most urgent request.

        Returns:
            Component → both; 9, the last step, where there is none.
        """
        names = list(components)
        queues = [f"{self._store.prefix}{EndpointId(self._keys.namespace, one, '').queue}" for one in names]
        given = [part for pair in zip(names, queues, strict=True) for part in pair]
        reply = await script("steps").run(
            self._store.commands, [self._keys.queued], *given, base=self._keys.base
        )
        return {one: (int(reply[2 * n]), int(reply[2 * n + 1])) for n, one in enumerate(names)}

    async def deploy(self, component: str, bounds: Bounds | None) -> None:
        """Note the bounds of a component; ``None`` = it has none any more.

        A number that requests or a planner asked for goes where nothing decides any more; one by hand stays, in bounds.
        """
        await self._store.commands.execute("SADD", self._store.keys.namespaces, self._keys.namespace)
        field = f"{component}:bounds"
        if bounds is None:
            await self._store.commands.execute("HDEL", self._keys.scale, field)
        else:
            await self._store.commands.execute("HSET", self._keys.scale, field, _encode(bounds))
        scale = (await self.read())[0].get(component)
        if scale is None or scale.wanted is None:
            return
        if scale.by is not ScaledBy.HAND:
            if bounds is None or not bounds.automatic:
                await self.want(component, None, scale.by)
        elif bounds is not None and bounds.clamp(scale.wanted) != scale.wanted:
            await self.want(component, bounds.clamp(scale.wanted), scale.by)

    async def report(self, name: str, fleets: dict[str, Fleet]) -> None:
        """Say what a ``serve`` has: component → its processes."""
        row = [part for one, fleet in fleets.items() for part in (f"{one}:fleet:{name}", _encode(fleet))]
        if row:
            await self._store.commands.execute("HSET", self._keys.scale, *row)

    async def leave(self, name: str, components: Iterable[str], units: Collection[str]) -> None:
        """A ``serve`` ends: it has nothing, and decides nothing any more."""
        fields = [f"{one}:fleet:{name}" for one in components]
        if fields:
            await self._store.commands.execute("HDEL", self._keys.scale, *fields)
        await self._lead(name, units, 0)

    async def tidy(self, now: float) -> None:
        """Forget what was said by those who are long gone."""
        pairs = await self._store.commands.execute("HGETALL", self._keys.scale)
        old = []
        for field, value in zip(pairs[::2], pairs[1::2], strict=True):
            with contained("registry", "the processes of a serve"):
                if b":fleet:" in field and now - _decode(value, Fleet).at > _FORGOTTEN:
                    old.append(field)
        if old:
            await self._store.commands.execute("HDEL", self._keys.scale, *old)

    async def keep_cards(self, component: str, infos: Iterable[InstanceInfo]) -> None:
        """Let the models of a component stay while no instance serves them; none = none of them does."""
        rows = {f"{component}:{info.endpoint}": _at_rest(info).encode() for info in infos}
        known = [raw.decode() for raw in await self._store.commands.execute("HKEYS", self._keys.cards)]
        gone = [field for field in known if field.partition(":")[0] == component and field not in rows]
        if gone:
            await self._store.commands.execute("HDEL", self._keys.cards, *gone)
        row = [part for pair in rows.items() for part in pair]
        if row:
            await self._store.commands.execute("HSET", self._keys.cards, *row)
        if gone or rows:
            await self._store.commands.execute("PUBLISH", self._keys.registry_channel, f"={component}")

    async def cards(self) -> list[InstanceInfo]:
        """Registrations of models that stay."""
        return read_cards((await self._store.commands.execute("HGETALL", self._keys.cards))[1::2])

    async def forget(self, component: str) -> None:
        """Forget a component: what is wanted of it, and its models."""
        await self.keep_cards(component, [])
        fields = [raw.decode() for raw in await self._store.commands.execute("HKEYS", self._keys.scale)]
        mine = [field for field in fields if field.partition(":")[0] == component]
        if mine:
            await self._store.commands.execute("HDEL", self._keys.scale, *mine)

    async def open(self, components: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Requests that wait for each of some components, and those that they run."""
        names = list(components)
        if not names:
            return {}
        wire = await self._store.commands.wire()
        keys = self._keys
        counts = await wire.ask(
            [["SCARD", key] for name in names for key in (keys.waiting(name), keys.running(name))]
        )
        return {name: (int(counts[2 * n]), int(counts[2 * n + 1])) for n, name in enumerate(names)}


def _at_rest(info: InstanceInfo) -> InstanceInfo:
    """A registration of no process."""
    return msgspec.structs.replace(info, lease_id=0, pid=0, host="", http=None, transport={})


def _encode(value: Any) -> bytes:
    return msgspec.json.encode(value)
