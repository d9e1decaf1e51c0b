"""Leases and registrations: Redis TTL keys. Everything that an instance registered dies with its lease."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

import msgspec

from dynamo_tasks.protocol.instances import InstanceInfo, Load
from dynamo_tasks.store.base import Store
from dynamo_tasks.store.keys import Keys

__all__ = ["LEASE_TTL", "RENEW_EVERY", "Registry", "new_lease"]

LEASE_TTL = 3.0
"""Seconds after which an instance that does not renew is gone."""
RENEW_EVERY = 0.25
"""Seconds between renewals."""
_TTL_MS = int(LEASE_TTL * 1000)


def new_lease() -> int:
    """A lease id: 63 random bits, never 0."""
    return secrets.randbits(63) | 1 << 62


def _member(info: InstanceInfo) -> str:
    return f"{info.component}:{info.endpoint}:{info.lease_id:x}"


class Registry:
    """The registry of all namespaces of a server."""

    def __init__(self, store: Store):
        self.store = store

    async def register(self, namespace: str, lease: int, infos: Iterable[InstanceInfo]) -> None:
        """Take the lease and announce what the instance serves; repeating it is harmless."""
        keys = self.store.keys(namespace)
        commands: list[list[str | bytes | int]] = [
            ["SADD", self.store.namespaces_key, namespace],
            ["SET", keys.lease(lease), secrets.token_hex(4), "PX", _TTL_MS],
            ["SADD", keys.leases, f"{lease:x}"],
        ]
        for info in infos:
            commands.append(["SET", keys.registration(_member(info)), info.encode(), "PX", _TTL_MS])
            commands.append(["SADD", keys.instances, _member(info)])
            commands.append(["SADD", keys.own_queues(lease), f"{info.component}:{info.endpoint}"])
        commands.append(["PUBLISH", keys.registry_channel, f"+{lease:x}"])
        wire = await self.store.commands.wire()
        await wire.pipeline(commands)

    async def renew(
        self, namespace: str, lease: int, counter: int, infos: list[InstanceInfo], load: Load
    ) -> bool:
        """Renew the lease and everything that hangs on it.

        Returns:
            Whether all registrations were still there; if not, :meth:`register` again.

        Raises:
            ServerUnavailableError: the server did not answer; the lease may run out.
        """
        keys = self.store.keys(namespace)
        commands: list[list[str | bytes | int]] = [
            ["SET", keys.lease(lease), counter, "PX", _TTL_MS],
            ["SET", keys.load(lease), msgspec.json.encode(load), "PX", _TTL_MS],
            # Whoever took it for dead has struck it off; while it lives, it may own requests.
            ["SADD", keys.leases, f"{lease:x}"],
        ]
        commands += [["PEXPIRE", keys.registration(_member(info)), _TTL_MS] for info in infos]
        # Whoever found a registration gone may prune the index just behind its return.
        if infos:
            commands.append(["SADD", keys.instances, *(_member(info) for info in infos)])
        wire = await self.store.commands.wire(timeout=LEASE_TTL)
        replies = await wire.pipeline(commands)
        return all(reply == 1 for reply in replies[3 : 3 + len(infos)]) and (not infos or replies[-1] == 0)

    async def revoke(
        self, namespace: str, lease: int, infos: Iterable[InstanceInfo], *, keep_lease: bool = False
    ) -> None:
        """Take registrations back at once, and the lease too unless requests still run on it."""
        keys = self.store.keys(namespace)
        commands: list[list[str | bytes | int]] = []
        for info in infos:
            commands.append(["DEL", keys.registration(_member(info))])
            commands.append(["SREM", keys.instances, _member(info)])
        wire = await self.store.commands.wire(timeout=1.0)
        if not keep_lease and await wire.execute("SCARD", keys.owned(lease)):
            # Something was not handed over: observers shall find it.
            commands.append(["DEL", keys.lease(lease), keys.load(lease)])
        elif not keep_lease:
            commands.append(["DEL", keys.lease(lease), keys.load(lease), keys.own_queues(lease)])
            commands.append(["SREM", keys.leases, f"{lease:x}"])
        commands.append(["PUBLISH", keys.registry_channel, f"-{lease:x}"])
        await wire.pipeline(commands)

    async def instances(self, namespace: str, component: str | None = None) -> list[InstanceInfo]:
        """Live registrations of a namespace, or of one component of it."""
        keys = self.store.keys(namespace)
        members = sorted(m.decode() for m in await self.store.commands.execute("SMEMBERS", keys.instances))
        if component is not None:
            members = [member for member in members if member.split(":", 1)[0] == component]
        if not members:
            return []
        found = await self.store.commands.execute("MGET", *(keys.registration(member) for member in members))
        await self._prune(keys, [m for m, value in zip(members, found, strict=True) if value is None])
        return [InstanceInfo.decode(value) for value in found if value is not None]

    async def _prune(self, keys: Keys, gone: list[str]) -> None:
        """Forget index entries of dead instances."""
        if gone:
            await self.store.commands.execute("SREM", keys.instances, *gone)

    async def loads(self, namespace: str, leases: Iterable[int]) -> dict[int, Load]:
        """The last known load of instances."""
        wanted = list(leases)
        if not wanted:
            return {}
        keys = self.store.keys(namespace)
        found = await self.store.commands.execute("MGET", *(keys.load(lease) for lease in wanted))
        return {
            lease: msgspec.json.decode(value, type=Load)
            for lease, value in zip(wanted, found, strict=True)
            if value is not None
        }
