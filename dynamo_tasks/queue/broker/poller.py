"""kombu's poller of a transport's channels, as a worker on the event loop needs it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from kombu.transport import redis as kombu_redis

from dynamo_tasks.queue.broker import greenlets
from dynamo_tasks.queue.broker.hub import AsyncioHub

__all__ = ["Poller"]


class Poller(kombu_redis.MultiChannelPoller):  # type: ignore[misc]
    """kombu's poller; on the event loop, queues are pulled and only pub/sub sockets are polled."""

    hub: AsyncioHub | None = None

    def _register_BRPOP(self, channel: Any) -> None:  # noqa: N802 - kombu's name
        if self.hub is None or not greenlets.may_await():
            super()._register_BRPOP(channel)
        else:
            channel.pull(self.hub)

    def maybe_refresh_binding_expiry(self) -> None:
        """kombu's timer; what Redis refuses is tried again a second later, without a traceback each time."""
        for channel in list(self._channels):
            with contextlib.suppress(*channel.connection_errors):
                if greenlets.may_await():
                    # kombu waits for Redis then, and the loop does not.
                    greenlets.await_(asyncio.to_thread(channel.maybe_refresh_binding_expiry))
                else:
                    channel.maybe_refresh_binding_expiry()
