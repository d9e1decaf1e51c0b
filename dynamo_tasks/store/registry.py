"""Leases and registrations: Redis TTL keys. Everything that an instance registered dies with its lease."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import msgspec

from dynamo_tasks.errors import AlreadyRegisteredError, ProtocolError
from dynamo_tasks.protocol.instances import InstanceInfo, Load
from dynamo_tasks.store.keys import Keys
from dynamo_tasks.store.ledger.scripts import script
from dynamo_tasks.store.redis.containment import pass_over
from dynamo_tasks.store.redis.server import Store

__all__ = ["LEASE_TTL", "RENEW_EVERY", "Registry", "Traffic", "new_lease"]

Traffic = Mapping[str, Mapping[str, int | None]]
"""Component → ``concurrency`` (requests that run at a time, over all instances), ``max_queue`` (that wait), ``timeout``
(ms from submit, or from when it may begin, to its end)."""


LEASE_TTL = 3.0
"""Seconds after which an instance that does not renew is gone."""
RENEW_EVERY = 0.25
"""Seconds between renewals."""
_TTL_MS = int(LEASE_TTL * 1000)


_Read = TypeVar("_Read")
_Key = TypeVar("_Key")


def new_lease() -> int:
    """Make a lease id: 63 bits of which the first is set, so never 0; the others are random."""
    return secrets.randbits(63) | 1 << 62


def _limits(traffic: Traffic) -> list[str | int]:
    """Encode limits for the script: the field of each in the hash, and its value or ''."""
    rows = [(f"{c}:{name}", value) for c, limits in traffic.items() for name, value in limits.items()]
    return [part for name, value in rows for part in (name, "" if value is None else value)]


def _member(info: InstanceInfo) -> str:
    return f"{info.component}:{info.endpoint}:{info.lease_id:x}"


def _readable(
    decode: Callable[[bytes], _Read], rows: Iterable[tuple[_Key, bytes | None]]
) -> dict[_Key, _Read]:
    """Decode the values that can be decoded, and pass over the others: a bad entry must not hide the rest."""
    found = {}
    for key, value in rows:
        if value is not None:
            try:
                found[key] = decode(value)
            except ProtocolError as exc:
                pass_over("registry", str(key), exc)
    return found


class Registry:
    """The registry of all namespaces of a server."""

    def __init__(self, store: Store):
        self.store = store

    async def register(
        self, namespace: str, lease: int, infos: Iterable[InstanceInfo], traffic: Traffic | None = None
    ) -> None:
        """Take the lease and announce what the instance serves; the same instance may repeat it.

        Args:
            namespace: Where it registers.
            lease: Its lease.
            infos: What it serves.
            traffic: Component → limit → value, ``None`` = no limit. They hold for the component as a whole, for
                every submit and claim from now on; what is not named stays as it is.

        Raises:
            AlreadyRegisteredError: another instance holds one of the registrations; nothing was changed.
        """
        keys = self.store.keys(namespace)
        limits = _limits(traffic or {})
        entries = [part for info in infos for part in (_member(info), info.encode())]
        reply = await script("register").run(
            self.store.commands, [keys.lease(lease), keys.instances], *limits, *entries, base=keys.base,
            lease=f"{lease:x}", counter=secrets.token_hex(4), ttl=_TTL_MS, namespaces=self.store.keys.namespaces,
            namespace=namespace, channel=keys.registry_channel, limits=len(limits) // 2,
        )  # fmt: skip
        if reply[0] == b"TAKEN":
            raise AlreadyRegisteredError(
                f"{keys.registration(reply[1].decode())} is held by another instance; use a lease of your own"
            )

    async def renew(
        self, namespace: str, lease: int, counter: int, infos: list[InstanceInfo], load: Load
    ) -> bool:
        """Renew the lease and everything that hangs on it.

        Returns:
            Whether all registrations were still there; if not, :meth:`register` again.

        Raises:
            ServerUnavailableError: Redis did not answer; the lease may run out.
        """
        keys = self.store.keys(namespace)
        # After that it would be of no use: the lease has run out.
        wire = await self.store.commands.wire(timeout=LEASE_TTL)
        whole = await script("renew").run(
            wire, [keys.lease(lease), keys.load(lease), keys.leases, keys.instances], *map(_member, infos),
            base=keys.base, lease=f"{lease:x}", counter=counter, ttl=_TTL_MS, load=msgspec.json.encode(load),
        )  # fmt: skip
        return bool(whole)

    async def revoke(self, namespace: str, lease: int, *, keep_lease: bool = False) -> None:
        """Take all registrations of a lease back at once, and the lease too unless requests still run on it."""
        keys = self.store.keys(namespace)
        # Whoever ends does not wait for a server that is away: the lease runs out by itself.
        await self.store.commands.wire(timeout=1.0)
        await script("revoke").run(
            self.store.commands, [keys.lease(lease), keys.instances], base=keys.base, lease=f"{lease:x}",
            keep=int(keep_lease), channel=keys.registry_channel,
        )  # fmt: skip

    async def withdraw(self, namespace: str, lease: int, infos: Iterable[InstanceInfo]) -> None:
        """Take some registrations of a lease back."""
        keys = self.store.keys(namespace)
        await script("withdraw").run(
            self.store.commands, [keys.instances], *map(_member, infos), base=keys.base, lease=f"{lease:x}",
            channel=keys.registry_channel,
        )  # fmt: skip

    async def instances(self, namespace: str, component: str | None = None) -> list[InstanceInfo]:
        """Live registrations of a namespace, or of one component of it."""
        keys = self.store.keys(namespace)
        listed = await self.store.commands.execute("SMEMBERS", keys.instances)
        members = sorted(member.decode(errors="replace") for member in listed)
        if component is not None:
            members = [member for member in members if member.split(":", 1)[0] == component]
        if not members:
            return []
        found = await self.store.commands.execute("MGET", *(keys.registration(member) for member in members))
        # Registrations go with their TTL; the index has none, and keeps what nobody took back.
        await self._prune(keys, [m for m, value in zip(members, found, strict=True) if value is None])
        return list(_readable(InstanceInfo.decode, zip(members, found, strict=True)).values())

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
        return _readable(Load.decode, zip(wanted, found, strict=True))

    async def time_left(self, namespace: str, leases: Iterable[int]) -> float:
        """Seconds until the first of these leases runs out, unless it is renewed; the whole TTL for none."""
        wanted = list(leases)
        if not wanted:
            return LEASE_TTL
        keys = self.store.keys(namespace)
        wire = await self.store.commands.wire()
        left = await wire.ask([["PTTL", keys.lease(lease)] for lease in wanted])
        return max(0, min(int(ms) for ms in left)) / 1000
