"""Leave of readers, many together: by itself each costs a write, a read and a wake-up of two processes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable

from dynamo_tasks.errors import ServerUnavailableError
from dynamo_tasks.store.ledger.scripts import MISSING, Argument, script
from dynamo_tasks.store.redis.containment import pass_over
from dynamo_tasks.store.redis.refusals import ReplyError, code_of, refusal
from dynamo_tasks.store.redis.server import Store
from dynamo_tasks.store.streams.subscription import Subscription

__all__ = ["Leaving"]

TOGETHER = 0.02
"""Seconds within which those that leave go together. A stream that nobody reads is abandoned after seconds."""
_RETRY = 0.1


class Leaving:
    """Tells Redis which streams this process reads no more.

    Each is told until it is known to have happened, or somebody has joined again.

    Args:
        store: The server.
        channel: Of this process.
        is_read: Tells whether a request has another reader in this process by now.
    """

    def __init__(self, store: Store, channel: str, is_read: Callable[[str], bool]):
        self._store = store
        self._channel = channel
        self._is_read = is_read
        self._left: dict[str, Subscription] = {}
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def add(self, sub: Subscription) -> None:
        """Let the last subscription of a request leave."""
        self._left[sub.request_id] = sub
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="leaving")

    async def close(self, timeout: float) -> bool:
        """Tell at once what is left, and stop.

        Returns:
            Whether all of it is told.
        """
        self._closing.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=timeout)
        if self._task is not None:
            self._task.cancel()
        return not self._left

    async def _run(self) -> None:
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TOGETHER):
                    await self._closing.wait()
            while self._left and not self._store.commands.closed:
                if not await self._tell():
                    await asyncio.sleep(_RETRY)
        finally:
            self._task = None

    async def _tell(self) -> bool:
        """Tell all; returns ``False`` where Redis is to be given time before it is asked again."""
        left: list[Subscription] = []
        try:
            wire = await self._store.commands.wire()
            # Asked after the wait, and nothing is awaited before it is sent: it cannot undo a later join.
            left = [sub for sub in self._left.values() if not self._is_read(sub.request_id)]
            self._left = {}
            detach = script("detach")
            replies = await wire.pipeline(
                [detach.command(keys, **named) for keys, named in map(self._call, left)]
            )
            refused = [
                (sub, str(reply))
                for sub, reply in zip(left, replies, strict=True)
                if isinstance(reply, Exception)
            ]
            left = [sub for sub, text in refused if not self._is_hopeless(sub, text)]
            self._again(left)
            if any(text.startswith(MISSING) for _, text in refused):
                await wire.execute("SCRIPT", "LOAD", detach.source)
                return True
            return not left
        except (ServerUnavailableError, ReplyError):
            self._again(left)
            return False

    def _again(self, subs: Iterable[Subscription]) -> None:
        for sub in subs:
            self._left.setdefault(sub.request_id, sub)

    def _is_hopeless(self, sub: Subscription, text: str) -> bool:
        """Return whether a refusal stays: somebody has put another key where the record should be."""
        if code_of(text) != "WRONGTYPE":
            return False
        pass_over("ledger", sub.request_id, refusal(text))
        return True

    def _call(self, sub: Subscription) -> tuple[list[str], dict[str, Argument]]:
        keys = self._store.keys(sub.namespace)
        return [keys.record(sub.request_id)], {
            "base": keys.base, "db": self._store.address.db, "reader": self._channel, "saw_end": int(sub.saw_end)
        }  # fmt: skip
