"""A server and what this process knows of it."""

from __future__ import annotations

from typing import Any

from dynamo_tasks.errors import ConfigError, RequestNotFoundError, ServerRefusedError
from dynamo_tasks.protocol.names import check_namespace
from dynamo_tasks.store.keys import Keyspace
from dynamo_tasks.store.redis.address import Address
from dynamo_tasks.store.redis.connection import Link
from dynamo_tasks.store.redis.containment import contained
from dynamo_tasks.store.redis.refusals import EXPECTED, ReplyError, code_of, refusal
from dynamo_tasks.store.redis.wire import Wire

__all__ = ["Store", "decode", "parse_info"]

MIN_VERSION = (7, 0)


class Store:
    """The shared command connection to one server, and the names of its keys.

    Args:
        url: See :mod:`~dynamo_tasks.store.redis.address`.
        prefix: What all keys and channels start with: an application's ``global_keyprefix``.

    Attributes:
        keys: Names of its keys, by namespace.
    """

    def __init__(self, url: str, *, prefix: str = ""):
        self._begin(Address.parse(url), prefix)

    @classmethod
    def at(cls, address: Address, *, prefix: str = "") -> Store:
        """A store at an address that was parsed."""
        store = cls.__new__(cls)
        store._begin(address, prefix)
        return store

    def _begin(self, address: Address, prefix: str) -> None:
        self.address = address
        self.prefix = prefix
        self.commands = Link(self.address, name="dynamo-tasks:commands", on_ready=self._learn)
        self.keys = Keyspace(self.address.db, prefix)
        self.run_id = ""
        self.version = ""

    @classmethod
    async def connect(cls, url: str, *, prefix: str = "") -> Store:
        """Connect to Redis and check it.

        Raises:
            ServerUnavailableError: it cannot be reached.
            ServerRefusedError: it is a replica, or refuses for another reason that passes.
            ConfigError: it is older than 7.0, or it evicts keys.
        """
        store = cls(url, prefix=prefix)
        await store.start()
        return store

    async def start(self) -> None:
        """Open the command connection; see :meth:`connect`."""
        await self.commands.start()

    async def _learn(self, wire: Wire) -> None:
        info: dict[str, str] = {}
        for reply in await wire.ask([("INFO", section) for section in ("server", "memory", "replication")]):
            info |= parse_info(reply)
        if "cluster" in (info.get("redis_mode"), info.get("server_mode")):
            raise ConfigError(
                f"the server at {self.address} is a Redis Cluster, which is not supported; name a single server, or "
                "Sentinels (sentinel://)"
            )
        if info.get("role", "master") != "master":
            # As READONLY: of a failover, which passes. Who starts on one waits.
            raise ServerRefusedError(f"the Redis server at {self.address} is a replica", retry_after=1.0)
        self.run_id = info.get("run_id", "")
        self.version = info.get("valkey_version") or info.get("redis_version", "0")
        if _version(info.get("redis_version", "0")) < MIN_VERSION:
            raise ConfigError(f"the Redis server at {self.address} is {self.version}; 7.0 or newer is needed")
        policy = info.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            raise ConfigError(
                f"the Redis server at {self.address} has maxmemory-policy {policy!r}, which loses requests; "
                "set it to noeviction"
            )

    async def check_scripts(self) -> None:
        """See that scripts may be run: nothing is written without them.

        Raises:
            ConfigError: Redis does not let us, and says why.
        """
        [reply] = await (await self.commands.wire()).pipeline([["EVALSHA", "0" * 40, 0]])
        error = refusal(str(reply))
        if isinstance(error, ReplyError) and code_of(error.text) not in EXPECTED:
            raise ConfigError(
                f"the Redis server at {self.address} runs no scripts (EVALSHA): {error.message}"
            )
        if isinstance(error, ServerRefusedError):
            raise error

    async def close(self) -> None:
        """Close the command connection."""
        await self.commands.close()

    async def namespaces(self) -> list[str]:
        """Names of all namespaces, sorted."""
        names: list[str] = []
        for name in await self.commands.execute("SMEMBERS", self.keys.namespaces):
            with contained("registry", "the name of a namespace"):
                names.append(check_namespace(name.decode()))
        return sorted(names)

    async def find(self, request_id: str, namespace: str | None = None) -> str:
        """The namespace that a request lives in.

        Raises:
            RequestNotFoundError: no namespace knows the id.
        """
        names = [namespace] if namespace is not None else await self.namespaces()
        if names:
            wire = await self.commands.wire()
            known = await wire.ask([("EXISTS", self.keys(name).record(request_id)) for name in names])
            for name, exists in zip(names, known, strict=True):
                if exists == 1:
                    return name
        raise RequestNotFoundError(f"no request {request_id!r} is known")


def parse_info(raw: bytes) -> dict[str, str]:
    """Fields of an ``INFO`` reply."""
    rows = (line.partition(":") for line in raw.decode().splitlines() if ":" in line)
    return {name: value for name, _, value in rows}


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())


def decode(value: Any) -> str:
    """Text of a reply that may be bytes or nothing."""
    return value.decode() if isinstance(value, bytes) else ""
