"""One pub/sub connection per process for what is not on the token path: wake-ups and short answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dynamo_tasks.store.redis.connection import Link
from dynamo_tasks.store.redis.server import Store
from dynamo_tasks.store.redis.wire import Wire

__all__ = ["Channels"]

Listener = Callable[[bytes], None]


class Channels:
    """Subscriptions of this process; any number of listeners share one per channel.

    After a reconnect every listener is called with an empty payload: something may have been missed.
    """

    def __init__(self, store: Store):
        self._listeners: dict[str, list[Listener]] = {}
        self._link = Link(
            store.address, name="dynamo-tasks:channels", on_ready=self._subscribe, on_message=self._received
        )
        self._changing = asyncio.Lock()
        self._started = False

    async def _subscribe(self, wire: Wire) -> None:
        for channel in self._listeners:
            await wire.execute("SUBSCRIBE", channel)
        # Once all are subscribed: who looks now misses nothing of what comes after.
        for listeners in list(self._listeners.values()):
            for listener in list(listeners):
                listener(b"")

    def _received(self, channel: bytes, payload: bytes) -> None:
        for listener in list(self._listeners.get(channel.decode(), ())):
            listener(payload)

    async def listen(self, channel: str, listener: Listener) -> None:
        """Call ``listener`` with what is published from now on; returns once Redis has confirmed.

        Raises:
            ServerUnavailableError: Redis cannot be reached.
        """
        # One after the other: a second listener must not return before the channel of the first is confirmed.
        async with self._changing:
            if not self._started:
                await self._link.start()
                self._started = True
            if channel not in self._listeners:
                wire = await self._link.wire(timeout=5.0)
                await wire.execute("SUBSCRIBE", channel)
            self._listeners.setdefault(channel, []).append(listener)

    def forget(self, channel: str, listener: Listener) -> None:
        """Call it no more; the channel is left with its last listener."""
        listeners = self._listeners.get(channel, [])
        if listener in listeners:
            listeners.remove(listener)
        if not listeners and self._listeners.pop(channel, None) is not None:
            self._link.post("UNSUBSCRIBE", channel)

    async def close(self) -> None:
        """End; idempotent."""
        await self._link.close()
