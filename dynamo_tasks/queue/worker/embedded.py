"""Celery's worker inside of a program that has an event loop of its own.

The same consumer and pool as ``celery worker``, so results, links, retries and remote control work; without its
banner, its signal handlers and its logging set-up. One per process: Celery keeps a worker's state in its modules.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from celery.app import trace
from celery.worker import WorkController, state
from kombu.asynchronous import set_event_loop

from dynamo_tasks.errors import ConfigError, DynamoError
from dynamo_tasks.queue import greenlets
from dynamo_tasks.queue.worker.shutdown import Shutdown
from dynamo_tasks.queue.worker.worker import Host, transport_options

__all__ = ["EmbeddedWorker"]

_running: set[EmbeddedWorker] = set()


class EmbeddedWorker(WorkController):  # type: ignore[misc]
    """A worker on the running loop.

    Args:
        app: The Celery application, with its worker context.
        host: What it serves.

    Raises:
        ConfigError: there is one in this process already.
    """

    def __init__(self, app: Any, host: Host):
        if _running:
            raise ConfigError("this process serves endpoints through another runtime already; use that one")
        self.app = app
        self.host = host
        app.is_worker = True
        app.conf.broker_transport_options = transport_options(app, host.lease)
        self._ready = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        super().__init__(
            app=app, hostname=f"dynamo-{host.lease:x}@%h", queues=list(host.queues), concurrency=host.capacity,
            loglevel="WARNING", without_mingle=True, without_gossip=True,
        )  # fmt: skip
        self.shutdown = Shutdown(self)

    def on_before_init(self, **kwargs: Any) -> None:
        """Celery callback: the tracer must find this application."""
        trace.setup_worker_optimizations(self.app, self.hostname)

    def on_consumer_ready(self, consumer: Any) -> None:
        """Celery callback: it consumes."""
        self._ready.set()

    async def begin(self) -> None:
        """Run in the background; returns once it consumes.

        Raises:
            DynamoError: it ended at once; its log says why.
        """
        _running.add(self)
        self._task = asyncio.create_task(greenlets.run(self.start), name="embedded-worker")
        ready = asyncio.ensure_future(self._ready.wait())
        await asyncio.wait([ready, self._task], return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            ready.cancel()
            await self.end()
            raise DynamoError("the worker ended while it started")

    async def end(self, *, requeue: bool = False) -> None:
        """Finish what runs, or hand it over, then stop; idempotent."""
        if self._task is None:
            return
        task, self._task = self._task, None
        state.should_stop = 0
        state.should_terminate = 0 if requeue else None
        if self.hub is not None:
            self.hub.wake()
        try:
            await task
        finally:
            state.should_stop = state.should_terminate = None
            set_event_loop(None)
            # The pool had lent its threads to the loop.
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor())
            _running.discard(self)
