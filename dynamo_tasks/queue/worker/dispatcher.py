"""Celery's events of a worker, published by a thread of their own.

Celery publishes them (every heartbeat is one) where they happen: on the event loop. While the broker takes packets and
says nothing, that would hold up the streams, and the lease with them.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from celery.app.events import Events as CeleryEvents
from celery.events.dispatcher import EventDispatcher

from dynamo_tasks.queue.broker.greenlets import await_, may_await

__all__ = ["Dispatcher", "Events"]

LIMIT = 10_000
"""Events, or batches of them, that may wait; beyond that they are dropped: they are for monitors."""
_LAST = 1.0
"""Seconds that a worker that goes waits for its last event to be sent."""


class Dispatcher(EventDispatcher):  # type: ignore[misc]
    """Publishes in the order of the events; elsewhere than in a worker of ours as Celery does."""

    _thread: ThreadPoolExecutor | None = None
    _waiting = 0
    _count = threading.Lock()

    def _publish(self, event: Any, producer: Any, routing_key: str, **options: Any) -> None:
        if not self.app.is_worker:
            super()._publish(event, producer, routing_key, **options)
        elif self._waiting < LIMIT:
            with self._count:
                self._waiting += 1
            self._aside(self._publish_now, event, producer, routing_key, options)

    def _publish_now(self, event: Any, producer: Any, routing_key: str, options: dict[str, Any]) -> None:
        with self._count:
            self._waiting -= 1
        super()._publish(event, producer, routing_key, **options)

    def _aside(self, call: Any, *args: Any) -> Future[Any]:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="dynamo-events")
        return self._thread.submit(call, *args)

    def send(self, type: str, *args: Any, **options: Any) -> None:
        """Send an event; the last one of a worker is waited for."""
        super().send(type, *args, **options)
        if type == "worker-offline" and self._thread is not None:
            sent = self._aside(int)
            if may_await():
                await_(asyncio.wait([asyncio.wrap_future(sent)], timeout=_LAST))
            else:
                wait([sent], _LAST)


class Events(CeleryEvents):  # type: ignore[misc]
    """Celery's events with our dispatcher."""

    dispatcher_cls = "dynamo_tasks.queue.worker.dispatcher:Dispatcher"
