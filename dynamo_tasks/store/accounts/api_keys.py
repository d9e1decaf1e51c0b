"""API keys that were made at run time, in Redis: one hash a namespace (see ``lua/keys_write.lua``)."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.protocol.http.api_keys import OWNER_PREFIX, RunTimeKey
from dynamo_tasks.store.ledger.scripts import script
from dynamo_tasks.store.redis.containment import contained
from dynamo_tasks.store.redis.server import Store

__all__ = ["StoredKeys"]

_TRIES = 20


class StoredKeys:
    """The keys of one namespace.

    Args:
        store: Redis.
        namespace: Its name.
    """

    def __init__(self, store: Store, namespace: str):
        self._store = store
        self._namespace = namespace
        self._hash = store.keys(namespace).api_keys

    async def version(self) -> bytes:
        """Something that is another one after each change."""
        found: bytes | None = await self._store.commands.execute("HGET", self._hash, "version")
        return found or b""

    async def by_digest(self, digest: str) -> RunTimeKey | None:
        """The key that a secret stands for, whether it works or not."""
        return await self._behind(f"d:{digest}")

    async def by_owner(self, beginning: str) -> RunTimeKey | None:
        """The key whose owner's name begins so."""
        return await self._behind(f"o:{beginning[:OWNER_PREFIX]}")

    async def _behind(self, field: str) -> RunTimeKey | None:
        key_id = await self._store.commands.execute("HGET", self._hash, field)
        data = await self._store.commands.execute("HGET", self._hash, b"k:" + key_id) if key_id else None
        return RunTimeKey.decode(data) if data else None

    async def all(self) -> list[RunTimeKey]:
        """All keys, the oldest first."""
        pairs = await self._store.commands.execute("HGETALL", self._hash)
        found = []
        for field, value in zip(pairs[::2], pairs[1::2], strict=True):
            if field.startswith(b"k:"):
                with contained("registry", "an API key"):
                    found.append(RunTimeKey.decode(value))
        return sorted(found, key=lambda key: (key.created, key.id))

    async def find(self, name: str) -> RunTimeKey:
        """The key of an id, of a name that no other has, or of the prefix that is shown.

        Raises:
            ConfigError: There is none, or several.
        """
        known = await self.all()
        exact = [key for key in known if key.id == name]
        fits = exact or [
            key for key in known if key.name == name or any(one.prefix == name for one in key.secrets)
        ]
        if len(fits) > 1:
            raise ConfigError(f"{len(fits)} keys are called {name!r}: " + ", ".join(key.id for key in fits))
        if not fits:
            raise ConfigError(
                f"no key {name!r:.80} in namespace {self._namespace}; see `dynamo-tasks keys list`"
            )
        return fits[0]

    async def add(self, key: RunTimeKey) -> None:
        """Keep a new key."""
        await self._store.commands.execute("SADD", self._store.keys.namespaces, self._namespace)
        await self._write(key, 0, key.encode())

    async def change(self, name: str, change: Callable[[RunTimeKey], RunTimeKey]) -> RunTimeKey:
        """Change a key, by compare-and-set of its revision; returns it as it is then.

        Raises:
            ConfigError: There is none, or others change it all the time.
        """
        for _ in range(_TRIES):
            before = await self.find(name)
            after = msgspec.structs.replace(change(before), revision=before.revision + 1)
            if await self._write(after, before.revision, after.encode()):
                return after
        raise ConfigError(f"the key {name!r} was changed by others all the time; try again")

    async def forget(self, name: str) -> RunTimeKey:
        """Delete all that is kept of a key; its usage stays."""
        key = await self.find(name)
        await self._write(key, key.revision, b"")
        return key

    async def _write(self, key: RunTimeKey, revision: int, data: bytes) -> bool:
        digests = [] if key.revoked else [one.digest for one in key.secrets]
        reply = await script("keys_write").run(
            self._store.commands, [self._hash], *digests, id=key.id, owner=key.owner[:OWNER_PREFIX], revision=revision,
            data=data,
        )  # fmt: skip
        if reply == b"TAKEN":
            raise ConfigError("another key has this secret")
        return bool(reply == b"OK")
