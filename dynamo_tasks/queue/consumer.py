"""Celery's consumer on the event loop: it waits for a lost broker without blocking the streams."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from celery.worker.consumer.consumer import Consumer as CeleryConsumer
from celery.worker.state import maybe_shutdown

from dynamo_tasks.observe.log import event
from dynamo_tasks.queue.greenlets import await_, in_greenlet

__all__ = ["Consumer"]

_FIRST_DELAY, _MAX_DELAY = 0.05, 1.0


class _NoLimit:
    """Restarts of the consumer are not counted: an outage may last."""

    def step(self) -> None:
        """Count nothing."""


class Consumer(CeleryConsumer):  # type: ignore[misc]
    """``worker_consumer = "dynamo_tasks.queue.consumer:Consumer"``."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._restart_state = _NoLimit()

    def ensure_connected(self, conn: Any) -> Any:
        """Connect; while the broker is away, the loop goes on."""
        if not in_greenlet():
            return super().ensure_connected(conn)
        delay = _FIRST_DELAY
        while True:
            maybe_shutdown()
            try:
                conn.connect()
            except self.connection_errors as exc:
                event("store.reconnect_failed", connection="broker", server=conn.as_uri(), error=str(exc))
                await_(asyncio.sleep(delay * random.uniform(0.5, 1.0)))
                delay = min(delay * 2, _MAX_DELAY)
            else:
                self.first_connection_attempt = False
                self.broker_connection_retry_attempt = 0
                return conn
