"""Celery's consumer on the event loop: it waits for a lost broker without blocking the streams."""

from __future__ import annotations

import asyncio
import math
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from celery.bootsteps import RUN
from celery.worker.consumer.consumer import Consumer as CeleryConsumer
from celery.worker.consumer.consumer import Evloop
from celery.worker.state import maybe_shutdown, reserved_requests
from kombu.common import ignore_errors

from dynamo_tasks.errors import InvalidRequestError, ServerRefusedError, UnknownEndpointError
from dynamo_tasks.observe import metrics
from dynamo_tasks.observe.log import event
from dynamo_tasks.observe.throttle import LogThrottle
from dynamo_tasks.protocol.jitter import jittered
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.queue import greenlets
from dynamo_tasks.queue.broker.envelope import HEADER
from dynamo_tasks.queue.greenlets import Aside, await_, may_await
from dynamo_tasks.queue.worker import control
from dynamo_tasks.queue.worker.consuming import along_with
from dynamo_tasks.queue.worker.lanes import LaneMessages
from dynamo_tasks.store.redis.containment import contained

__all__ = ["Consumer"]

_FIRST_DELAY, _MAX_DELAY = 0.05, 1.0


class _NoLimit:
    """Restarts of the consumer are not counted: an outage may last."""

    def step(self) -> None:
        """Count nothing."""


class Consumer(CeleryConsumer):  # type: ignore[misc]
    """``worker_consumer = "dynamo_tasks.queue.worker.consumer:Consumer"``."""

    class Blueprint(CeleryConsumer.Blueprint):  # type: ignore[misc]
        """Celery's steps of a connection, each of which asks Redis a dozen times, one after the other.

        In a thread: where Redis is far away, the loop would stand still for seconds, and lose its lease.
        """

        def start(self, parent: Consumer) -> None:
            """Start the steps; the last one, Celery's loop, here."""
            self.state = RUN
            for number, step in enumerate(parent.steps, 1):
                self.started = number
                if isinstance(step, Evloop):
                    step.start(parent)
                else:
                    parent.aside(step.start, parent)

    first_connection_attempt: bool
    connection: Any
    controller: Any
    initial_prefetch_count: int
    pool: Any
    _loop: asyncio.AbstractEventLoop

    def __init__(self, *args: Any, app: Any, **kwargs: Any):
        control.install(app)
        super().__init__(*args, app=app, **kwargs)
        self._restart_state = _NoLimit()
        self._late: dict[str, bool] = {}
        self._settling: asyncio.Task[None] | None = None
        self._failures = LogThrottle()
        self._ready_at = math.inf
        self._delay = _FIRST_DELAY
        self._has_entered = False
        self.lanes: LaneMessages | None = None
        """Messages of further lanes, where there are any."""
        self.threads = ThreadPoolExecutor(1, thread_name_prefix="dynamo-consumer")

    def reset_rate_limits(self) -> None:
        """Celery callback: limits were changed. They hold for what waits already, too."""
        before = {name: bucket.contents for name, bucket in self.task_buckets.items() if bucket is not None}
        super().reset_rate_limits()
        for name, waiting in before.items():
            while waiting:
                self._limit_again(self.task_buckets[name], *waiting.popleft())

    def _limit_again(self, bucket: Any, request: Any, tokens: int) -> None:
        if bucket is None:
            self._limit_move_to_pool(request)
        else:
            self._limit_task(request, bucket, tokens)

    def add_task_queue(self, queue: str, *args: Any, **options: Any) -> None:
        """Celery callback: take messages of one more queue; a component's queue brings those of the instance along."""
        host = self.controller.host
        for name in [queue, *along_with([queue], host.queues if host is not None else [])]:
            self.app.amqp.queues.declare(name)
            super().add_task_queue(name, *args, **options)
            self._announce(host)

    def cancel_task_queue(self, queue: str) -> None:
        """Celery callback: take no more messages of a queue."""
        super().cancel_task_queue(queue)
        self._announce(self.controller.host)

    @staticmethod
    def _announce(host: Any) -> None:
        if host is not None and may_await():
            await_(host.announce())

    def _update_prefetch_count(self, index: int = 0) -> Any:
        """Celery callback: there are so many slots more, or less; for the connections to come, too."""
        self.initial_prefetch_count = max(1, self.initial_prefetch_count + index)
        value = self._update_qos_eventually(index)
        if may_await():
            # Now, and not when Celery's loop comes round: the one who asked for it is answered before that.
            self.qos.update()
            if index < 0:
                # The pop in flight asks for as many messages as there was room for.
                self.task_consumer.channel.interrupt()
        return value

    def on_ready(self) -> None:
        """Celery callback: it consumes (again)."""
        self._loop = asyncio.get_running_loop()
        channel = self.task_consumer.channel
        channel.acknowledged_late = self._done_late
        channel.consumer_gate = self.app.consumer_gate
        self.app.consumer_gate.attach(channel)
        self._connect_preemption(channel)
        # They run on messages of an earlier connection, which this channel does not count: their slots are taken, too.
        carried = weakref.WeakSet(reserved_requests)
        # Also of those that end while Redis is asked, below: their notes are there until that is told, too.
        tags = {request._message.delivery_tag for request in carried}
        if carried:
            channel.carried = lambda: sum(request in reserved_requests for request in carried)
        self._connect_lanes(channel)
        self.aside(self.connection.transport.listen)
        self.aside(self.settle_late)
        # Fetched over the last connection and never started, they stand in our notes alone: nobody else would run them.
        self.aside(channel.restore_unknown, tags)
        self._enter()
        self._ready_at = time.monotonic()
        super().on_ready()

    def _connect_preemption(self, channel: Any) -> None:
        """Take messages for the slots of requests that may be released, and release them."""
        if getattr(self.controller, "host", None) is None:
            return
        preemption = self.pool.preemption = self.app.worker_context.preemption
        preemption.on_arrival, preemption.on_change = self.pool.make_room, self.app.consumer_gate.look
        channel.allowance = preemption.allowance
        context = self.app.worker_context
        context.on_room = self.app.consumer_gate.look
        channel.late = context.late_by_now

    def _connect_lanes(self, channel: Any) -> None:
        """Let the first lane's messages share the slots with those of further lanes."""
        context = self.app.worker_context
        if getattr(self.controller, "host", None) is None or not context.further:
            return
        if self.lanes is None:
            self.lanes = LaneMessages(self, context)
        else:
            self.lanes.reconnected()
        lanes, earlier = self.lanes, channel.carried
        channel.turns = lanes.slots
        channel.carried = lambda: earlier() + lanes.slots.held

    def _enter(self) -> None:
        """Let the host register: from now on somebody takes what is sent to it."""
        host = getattr(self.controller, "host", None)
        if host is not None and not self._has_entered:
            channel = self.task_consumer.channel
            # Before the registration: what is sent to this instance by its name must be taken.
            channel.pull(self.hub)
            while not await_(channel.takes(_MAX_DELAY)):
                # The broker may stay silent for long: a worker that is told to end meanwhile ends.
                maybe_shutdown()
            await_(host.enter())
            self._has_entered = True

    def aside(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call what asks Redis, without holding up the loop."""
        if not may_await():
            return function(*args)
        return await_(Aside(self.threads).run(function, *args))

    def _done_late(self, tag: str, requeue: bool) -> None:
        """Settle a task that is done; the commands run beside the loop, for all that are done by then."""
        self._late[tag] = requeue
        self._loop.call_soon_threadsafe(self._settle_soon)

    def _settle_soon(self) -> None:
        if self._settling is None:
            self._settling = self._loop.create_task(self._settle())

    async def _settle(self) -> None:
        try:
            while self._late and self._has_channel:
                try:
                    await greenlets.run_yielding(self.settle_late)
                except self.connection_errors:
                    await asyncio.sleep(_MAX_DELAY)
        finally:
            self._settling = None

    @property
    def _has_channel(self) -> bool:
        return self.task_consumer is not None and not self.task_consumer.channel.closed

    def settle_late(self) -> None:
        """Acknowledge to Redis what is done; without a connection, the next one does it."""
        settled = dict(self._late)
        if settled and self._has_channel:
            with contained("recovery", "messages that are done"):
                self.task_consumer.channel.settle_late(settled)
            for tag in settled:
                self._late.pop(tag, None)

    def update_strategies(self) -> None:
        """Celery's: what to do with messages, by task; of endpoints, those that are served here."""
        super().update_strategies()
        for name in [name for name in self.strategies if self.app.endpoint_task(name)]:
            if not self.app.serves(name):
                del self.strategies[name]

    def call_soon(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Celery callback: what a command of remote control asks for is done after its reply."""
        return super().call_soon(control.guarded(function), *args, **kwargs)

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Celery callback: nobody here serves it."""
        super().on_unknown_task(body, message, exc)
        self._refused(
            message, UnknownEndpointError(f"the worker that received the request does not serve {exc}")
        )

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Celery callback: the message is not what it should be."""
        super().on_invalid_task(body, message, exc)
        self._refused(message, InvalidRequestError(f"the worker refused the message: {exc}"))

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Celery callback: the body cannot be read."""
        super().on_decode_error(message, exc)
        self._refused(message, InvalidRequestError(f"the message cannot be decoded: {exc}"))

    def _refused(self, message: Any, error: Exception) -> None:
        """The request of a message that Celery has dropped has ended."""
        headers = message.headers
        if isinstance(headers, dict) and HEADER in headers:
            unclaimed = self.app.worker_context.unclaimed
            unclaimed.spawn(unclaimed.fail(EndpointId.parse(headers["task"]).namespace, headers["id"], error))

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Celery callback before it connects again: at once, but not to a server that refuses, nor again and again."""
        refuses, lasted = isinstance(exc, ServerRefusedError), time.monotonic() - self._ready_at > _MAX_DELAY
        self._ready_at = math.inf
        if not may_await() or (lasted and not refuses):
            self._delay = _FIRST_DELAY
            super().on_connection_error_after_connected(exc)
            return
        connection, self.connection = self.connection, None
        if self._failures.due():
            event("store.reconnect_failed", connection="broker", server=connection.as_uri(), error=str(exc))
        ignore_errors(connection, connection.close)
        await_(asyncio.sleep(_MAX_DELAY if refuses else self._delay))
        self._delay = min(2 * self._delay, _MAX_DELAY)

    def ensure_connected(self, conn: Any) -> Any:
        """Connect; while the broker is away, the loop goes on."""
        if not may_await():
            return super().ensure_connected(conn)
        delay, failures = _FIRST_DELAY, LogThrottle()
        while True:
            maybe_shutdown()
            try:
                # In a thread: a host that takes packets and says nothing must not stop the streams.
                await_(asyncio.to_thread(conn.connect))
            except self.connection_errors as exc:
                if failures.due():
                    event("store.reconnect_failed", connection="broker", server=conn.as_uri(), error=str(exc))
                await_(asyncio.sleep(jittered(delay)))
                delay = min(delay * 2, _MAX_DELAY)
            else:
                if not self.first_connection_attempt:
                    metrics.counter("reconnects_total", connection="broker").inc()
                self.first_connection_attempt = False
                self.broker_connection_retry_attempt = 0
                return conn
