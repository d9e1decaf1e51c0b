"""API keys that were made at run time, as a frontend knows them: asked for once, and kept for a while.

No request of a key that is known asks Redis. What is kept is forgotten at each change of any key, which
:meth:`KnownKeys.follow` sees within half a second: so a revoked key is refused then, at every frontend. Should that
fail, nothing is believed for longer than ``_TTL``.

Guesses cost little: what has not the form of a key is refused at once, the others are remembered, in a memory of their
own that holds so many, and only so many are looked for at a time.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol, TypeVar

from dynamo_tasks.protocol.http.api_keys import RunTimeKey

__all__ = ["KeySource", "KnownKeys"]

T = TypeVar("T")
_TTL = 30.0
_MOST_KNOWN, _MOST_UNKNOWN = 4096, 4096
_BESIDE = 32
"""Look-ups at a time."""


class KeySource(Protocol):
    """The place where keys are kept."""

    async def version(self) -> bytes:
        """Something that is another one after each change."""
        ...

    async def by_digest(self, digest: str) -> RunTimeKey | None:
        """The key that a secret stands for, whether it works or not."""
        ...

    async def by_owner(self, beginning: str) -> RunTimeKey | None:
        """The key whose owner's name begins so."""
        ...


class KnownKeys:
    """The keys that were asked for lately.

    Args:
        source: Where they are kept.
    """

    def __init__(self, source: KeySource):
        self._source = source
        self._known: dict[str, tuple[float, RunTimeKey]] = {}
        self._unknown: dict[str, float] = {}
        self._version = b""
        self._changes = 0
        self._room = asyncio.Semaphore(_BESIDE)

    async def find(self, digest: str) -> RunTimeKey | None:
        """The key that a secret opens now; ``None`` = there is none.

        Raises:
            ServerUnavailableError: It is not known, and Redis cannot be reached.
        """
        key = await self._remembered(digest)
        # Of what is remembered, too: it may have expired since.
        return key if key is not None and key.works(digest, time.time()) else None

    async def of_owner(self, beginning: str) -> RunTimeKey | None:
        """The key whose owner's name begins so, as long as it works: for stream tokens."""
        async with self._room:
            key = await self._source.by_owner(beginning)
        return key if key is not None and key.state(time.time()) == "active" else None

    async def _remembered(self, digest: str) -> RunTimeKey | None:
        now = time.monotonic()
        if (entry := self._known.get(digest)) is not None and entry[0] > now:
            return entry[1]
        if self._unknown.get(digest, 0.0) > now:
            return None
        async with self._room:
            changes = self._changes
            key = await self._source.by_digest(digest)
        if changes == self._changes:  # else it may be what was before
            self._remember(digest, key, now + _TTL)
        return key

    def _remember(self, digest: str, key: RunTimeKey | None, until: float) -> None:
        if key is None:
            _put(self._unknown, digest, until, _MOST_UNKNOWN)
        else:
            self._unknown.pop(digest, None)
            _put(self._known, digest, (until, key), _MOST_KNOWN)

    async def follow(self) -> None:
        """Look whether any key was changed; if so, believe nothing any more."""
        version = await self._source.version()
        if version != self._version:
            self._version = version
            self._changes += 1
            self._known.clear()
            self._unknown.clear()


def _put(memory: dict[str, T], name: str, value: T, most: int) -> None:
    """Remember something; the oldest is forgotten for it."""
    memory.pop(name, None)
    while len(memory) >= most:
        del memory[next(iter(memory))]
    memory[name] = value
