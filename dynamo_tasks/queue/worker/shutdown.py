"""The three ways to end a worker, and the signals that ask for them.

=======================  ==============================================================================
warm: SIGTERM, SIGINT    takes no more, requeues what was fetched and not started, finishes what runs;
                         endpoints that need longer than the grace period are requeued, plain tasks are
                         waited for
soft: SIGQUIT with       the same for ``worker_soft_shutdown_timeout`` seconds, then cold
the setting
cold: SIGQUIT, or the    requeues what runs: back to the front of its queue, the attempt not counted,
signal a second time     so that another worker continues the stream; plain tasks are left to their fate
=======================  ==============================================================================

The grace period is 30 s; ``DYNAMO_GRACE_PERIOD`` sets it (seconds).

Signals of one kind within a second are one: terminals, ``timeout`` and supervisors send them to a process and to its
group, or send two. One more SIGQUIT cuts a soft shutdown short. ``REMAP_SIGTERM=SIGQUIT`` makes SIGTERM cold, as in
Celery.
Celery's own cold handler waits and stops the pool inside of the signal handler; here a handler only sets
flags and wakes the loop.
"""

from __future__ import annotations

import asyncio
import atexit
import signal
import time
from collections.abc import Callable
from typing import Any

from celery.apps import worker as celery_worker
from celery.worker import state

from dynamo_tasks.config.host.given import grace_period
from dynamo_tasks.queue import greenlets

__all__ = ["Shutdown", "ignore_at_exit", "once"]

GRACE_SECONDS = 30.0
"""Seconds that running endpoints have to end by themselves, unless ``DYNAMO_GRACE_PERIOD`` says otherwise."""
APART_SECONDS = 1.0
"""Signals closer together are one."""
REQUEUE_SECONDS = 2.0
"""Seconds that running endpoints are given to stop; their requests are requeued in that time."""


Debounce = Callable[[Any], Callable[[int, Any], None]]


def once() -> Debounce:
    """Makes handlers that take one signal of all that come in an instant."""
    last = -APART_SECONDS

    def debounced(handler: Any) -> Callable[[int, Any], None]:
        def handle(number: int, frame: Any) -> None:
            nonlocal last
            before, last = last, time.monotonic()
            if last - before >= APART_SECONDS:
                handler(number, frame)
            else:
                last = before

        return handle

    return debounced


def ignore_at_exit() -> None:
    """From the end of the program on, ignore the signals that ask for it.

    Python puts the default handlers back at its end: a second signal would make an orderly end a killed one.
    """
    atexit.register(_ignore)


def _ignore() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


class Shutdown:
    """Ends one worker.

    Args:
        worker: The worker; its pool, hub and host are asked for when they are there.
    """

    def __init__(self, worker: Any):
        self._worker = worker
        self._cold = asyncio.Event()
        self._now = asyncio.Event()
        self._once = {cold: once() for cold in (False, True)}

    def install(self) -> None:
        """Take over the signals; Celery has installed its handlers before."""
        remapped = celery_worker.REMAP_SIGTERM == "SIGQUIT"
        for name, cold in (("SIGTERM", remapped), ("SIGQUIT", True), ("SIGINT", False)):
            self._arm(name, self._once[cold], cold=cold)
        ignore_at_exit()

    def _arm(self, name: str, debounce: Debounce, *, cold: bool) -> None:
        """The next signal of this kind is a warm or a cold one, and the one after it a cold one."""
        how = "Cold" if cold else "Warm"
        failed = cold or name == "SIGINT"
        celery_worker._shutdown_handler(
            self._worker, sig=name, how=how, callback=lambda _: self._arm(name, debounce, cold=True),
            exitcode=celery_worker.EX_FAILURE if failed else celery_worker.EX_OK,
        )  # fmt: skip
        number = signal.Signals[name]
        signal.signal(number, debounce(signal.getsignal(number)))

    def asked(self, how: str) -> None:
        """A signal arrived; on the loop."""
        if how == "Cold":
            (self._now if self._cold.is_set() else self._cold).set()

    async def warm(self) -> None:
        """Finish what runs, unless a cold shutdown is asked for meanwhile."""
        await self._leave()
        given = grace_period()
        if not await self._drain(GRACE_SECONDS if given is None else given, self._cold):
            if not self._cold.is_set():
                self._worker.pool.requeue_endpoints()
                await self._drain(None, self._cold)
            await self._requeue_running()
        await self._end()

    async def cold(self) -> None:
        """Give what runs the soft timeout, then requeue it."""
        self._cold.set()
        await self._leave()
        timeout = float(self._worker.app.conf.worker_soft_shutdown_timeout or 0)
        idle = not state.active_requests and not self._worker.app.conf.worker_enable_soft_shutdown_on_idle
        if idle or timeout <= 0 or not await self._drain(timeout, self._now):
            await self._requeue_running()
        await self._end()

    async def _leave(self) -> None:
        """Leave the registry, and give messages that were not started back to their queues."""
        await asyncio.sleep(0)  # what was accepted in this turn of the loop counts as started
        if (channel := self._channel()) is not None:
            await channel.rest()
        await self._rest_lanes()
        self._worker.hub.run_ready()  # what has ended is acknowledged, not requeued
        await greenlets.run_yielding(self._requeue_messages)
        await self._requeue_lanes()
        await self._worker.host.deregister()

    async def _drain(self, timeout: float | None, cut_short: asyncio.Event) -> bool:
        """Wait for what runs; acknowledge what ends. Returns whether all has ended."""
        drained = asyncio.ensure_future(self._worker.pool.drain(timeout, on_done=self._worker.hub.run_ready))
        cut = asyncio.ensure_future(cut_short.wait())
        await asyncio.wait([drained, cut], return_when=asyncio.FIRST_COMPLETED)
        cut.cancel()
        if not drained.done():
            drained.cancel()
            return False
        return bool(drained.result())

    async def _requeue_running(self) -> None:
        await self._worker.pool.requeue(REQUEUE_SECONDS)

    async def _end(self) -> None:
        self._worker.hub.run_ready()
        await greenlets.run_yielding(self._requeue_messages, everything=True)
        await self._requeue_lanes(everything=True)
        await self._worker.app.worker_context.unclaimed.wait(REQUEUE_SECONDS)
        self._worker.hub.run_ready()
        await self._worker.host.stop()

    @property
    def _lanes(self) -> Any:
        return getattr(self._worker.consumer, "lanes", None)

    async def _rest_lanes(self) -> None:
        """Wait for what was popped of further lanes, and take no more."""
        if self._lanes is not None:
            self._worker.app.consumer_gate.pause()
            await self._lanes.rest()

    async def _requeue_lanes(self, *, everything: bool = False) -> None:
        """Messages of further lanes whose tasks don't run go back, too; in the end nothing more is taken."""
        if self._lanes is None:
            return
        running = set() if everything else _running()
        self._lanes.requeue(running)
        if everything:
            await self._lanes.stop()

    def _channel(self) -> Any:
        """Return the channel of the consumed messages, while it is open."""
        consumer = getattr(self._worker.consumer, "task_consumer", None)
        channel = consumer.channel if consumer is not None else None
        return None if channel is None or channel.closed else channel

    def _requeue_messages(self, *, everything: bool = False) -> None:
        """Fetched messages whose tasks don't run go back to the front of their queues."""
        channel = self._channel()
        if channel is None:
            return
        running = set() if everything else _running()
        qos = channel.qos
        tags = [tag for tag in qos._delivered if tag not in qos._dirty and tag not in running]
        try:
            channel.requeue(tags)
            if everything:
                self._worker.consumer.settle_late()  # what is done is not requeued
                channel.restore_unknown(set())
        except channel.connection_errors:
            # The broker is away: the ledger and this instance's list of unacknowledged messages have the rest.
            return


def _running() -> set[str]:
    """Delivery tags of the messages whose tasks run."""
    return {request._message.delivery_tag for request in state.active_requests}
