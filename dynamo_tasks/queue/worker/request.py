"""Celery's request object for endpoints, and its events: what Celery decides is also reported to the ledger.

Celery drops messages on its own account: past their ``expires``, revoked, of an unknown task, not decodable.
Each of these makes the transition of its request's record, so that readers see an end, and the result
backend only gets what the ledger agrees to: a redelivered message of a request that runs elsewhere, or
has ended, is acknowledged and no more.

Celery publishes events (every heartbeat is one) where they happen: on the event loop. While the broker takes packets
and says nothing, that would hold up the streams, and the lease with them. So a thread of its own publishes them.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from celery import signals
from celery.app.events import Events as CeleryEvents
from celery.events.dispatcher import EventDispatcher
from celery.worker.request import Request
from celery.worker.state import task_ready

from dynamo_tasks.queue.broker.envelope import HEADER
from dynamo_tasks.queue.execution.outcome import EndedRevoked
from dynamo_tasks.queue.greenlets import await_, may_await
from dynamo_tasks.queue.worker.foreign import run_foreign

__all__ = ["Dispatcher", "EndpointRequest", "Events"]


class EndpointRequest(Request):  # type: ignore[misc]
    """One message of an endpoint in a worker."""

    def __init__(self, message: Any, *args: Any, body: Any = None, decoded: bool = False, **kwargs: Any):
        # Celery has decoded it by now, to see which protocol it is of, and would do so again to run it.
        if not decoded:
            body, decoded = message.payload, True
        super().__init__(message, *args, body=body, decoded=decoded, **kwargs)

    def maybe_expire(self) -> bool:
        """Celery callback: whether its time is over by the clock of this machine.

        Of a first attempt the ledger knows that by Redis's clock, and says so when it is claimed.
        """
        tracked = HEADER in (self.message.headers or {})
        return False if tracked and not self.request_dict.get("retries") else bool(super().maybe_expire())

    def _job(self) -> Any:
        return self._apply_result() if self._apply_result is not None else None

    def terminate(self, pool: Any, signal: Any = None) -> None:
        """Celery callback for ``revoke(terminate=True)``: stops this request only.

        It is announced as revoked once it has ended, not before: an acknowledgement must not overtake that.
        """
        job = self._job()
        if job is None:
            self._terminate_on_ack = pool, signal
        else:
            job.terminate()

    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:
        """Celery callback at a cold shutdown: the request goes back to its queue."""
        job = self._job()
        if job is not None:
            job.requeue()

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:
        """Celery callback: it drops the message, as expired or revoked."""
        self._already_revoked = True
        task_ready(self)
        unclaimed = self._app.worker_context.unclaimed
        unclaimed.spawn(self._drop(unclaimed, reason, expired))

    async def _drop(self, unclaimed: Any, reason: str, expired: bool) -> None:
        namespace = self.task.endpoint.namespace
        if not await unclaimed.drop(namespace, self.id, expired=expired):
            self.acknowledge()
            return
        await run_foreign(self.task, super()._announce_revoked, reason, False, None, expired)
        await unclaimed.settle(namespace, self.id)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """Celery callback; a request that was cancelled while it ran is announced as revoked."""
        exc = getattr(exc_info.exception, "exc", exc_info.exception)
        if not isinstance(exc, EndedRevoked):
            return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)
        task_ready(self)
        self.send_event("task-revoked", terminated=not exc.expired, signum=None, expired=exc.expired)
        self.acknowledge()
        signals.task_revoked.send(
            self.task, request=self._context, terminated=not exc.expired, signum=None, expired=exc.expired
        )
        return None


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

    dispatcher_cls = "dynamo_tasks.queue.worker.request:Dispatcher"
