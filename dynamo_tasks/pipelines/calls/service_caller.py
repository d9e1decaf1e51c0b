"""Calls of services: requests out, responses in, matched by their ids.

One manager per job and process. Callers put requests into the services' queues; one listener thread takes all
responses from one queue and wakes up their callers. While many calls are in flight it takes them in batches by
itself, since a thread that has the interpreter goes on until its queue is empty.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any

from dynamo_tasks.config import suggest
from dynamo_tasks.errors import ConfigError, ServiceCallError, ServiceTimeoutError, UnknownServiceError
from dynamo_tasks.pipelines.calls.messages import ServiceRequest, ServiceResponse
from dynamo_tasks.pipelines.calls.queues import LocalQueueDescriptor, QueueDescriptor, RequestQueue
from dynamo_tasks.protocol.jitter import jittered

__all__ = ["ASYNC_TIMEOUT", "SYNC_TIMEOUT", "ServiceManager"]

SYNC_TIMEOUT = 10.0
ASYNC_TIMEOUT = 30.0
MAX_IN_FLIGHT = 4096
_SWEEP_EVERY = 0.05
_FIRST_DELAY, _LAST_DELAY = 0.05, 5.0
_WAKE = object()


class _Pending:
    """A call that waits for its response: a thread by ``lock``, or a future."""

    __slots__ = ("future", "lock", "request", "response", "retries", "retry_on", "timeout")

    def __init__(
        self, request: ServiceRequest, timeout: float, retries: int, retry_on: tuple[str, ...], asynchronous: bool
    ):  # fmt: skip
        self.request = request
        self.timeout = timeout
        self.retries = retries
        self.retry_on = retry_on
        self.response: ServiceResponse | None = None
        self.future: Future[Any] | None = Future() if asynchronous else None
        self.lock = threading.Lock()
        self.lock.acquire()

    def complete(self, response: ServiceResponse) -> None:
        self.response = response
        future = self.future
        if future is None:
            self.lock.release()
        elif future.set_running_or_notify_cancel():
            if response.success:
                future.set_result(response.result)
            else:
                future.set_exception(_failed(response))

    def give_up(self) -> None:
        """Nobody answered in time."""
        assert self.future is not None
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(self.late())

    def late(self) -> ServiceTimeoutError:
        request = self.request
        return ServiceTimeoutError(
            f"Service call timeout after {self.timeout}s: {request.service_name}.{request.method_name}"
        )

    def wants_retry(self, response: ServiceResponse) -> bool:
        if self.request.attempt > self.retries or self.request.expired:
            return False
        return not self.retry_on or not set(self.retry_on).isdisjoint(response.error_types)


class ServiceManager:
    """Calls the services of one job.

    Args:
        service_qds: Request queues by service name.
        response_qd: Where all responses arrive; made here where none is given.
        max_in_flight: Most asynchronous calls at once; the next one waits.
    """

    def __init__(
        self,
        service_qds: Mapping[str, QueueDescriptor],
        response_qd: LocalQueueDescriptor | None = None,
        *,
        name: str = "job",
        max_in_flight: int = MAX_IN_FLIGHT,
    ):
        self.service_qds = service_qds
        self.response_qd = response_qd or LocalQueueDescriptor(f"{name}.responses")
        self._responses: SimpleQueue[Any] = self.response_qd.get_queue()
        self._name = name
        self._limit = max_in_flight
        self._queues: dict[str, RequestQueue] = {}
        self._pending: dict[int, _Pending] = {}
        self._due: list[tuple[float, int, _Pending]] = []
        self._ids = itertools.count(1)
        self._room = threading.Condition()
        self._crowded = False
        self._blocked = False
        self._starting = threading.Lock()
        self._listener: threading.Thread | None = None
        self._closed = False

    @property
    def in_flight(self) -> int:
        """Calls that wait for their response."""
        return len(self._pending)

    def check(self, name: str) -> QueueDescriptor:
        """The queue of a service.

        Raises:
            UnknownServiceError: no such service; lists those that there are.
        """
        found = self.service_qds.get(name)
        if found is None:
            raise UnknownServiceError(f"no service {name!r}{suggest(str(name), self.service_qds)}")
        return found

    def forget_queues(self) -> None:
        """Look the queues up anew at the next call."""
        self._queues.clear()

    # -- calls --------------------------------------------------------------------------------------

    def call_sync(
        self, name: str, method: str, args: tuple[Any, ...], options: dict[str, Any], *, timeout: float
    ) -> Any:
        """Call and wait for the response; errors as in ``Calls.call_service``."""
        pending = self._send(name, method, args, options, timeout, asynchronous=False)
        if not pending.lock.acquire(timeout=timeout):
            self._pending.pop(pending.request.request_id, None)
            raise pending.late()
        response = pending.response
        assert response is not None
        if response.success:
            return response.result
        raise _failed(response)

    def call_async(
        self, name: str, method: str, args: tuple[Any, ...], options: dict[str, Any], *, timeout: float
    ) -> Future[Any]:
        """Call; the future gets the result or the error. Waits only while too many calls are in flight."""
        if len(self._pending) >= self._limit:
            self._wait_for_room(timeout)
        future = self._send(name, method, args, options, timeout, asynchronous=True).future
        assert future is not None
        return future

    def _send(
        self, name: str, method: str, args: tuple[Any, ...], options: dict[str, Any], timeout: float,
        *, asynchronous: bool,
    ) -> _Pending:  # fmt: skip
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = self.check(name).get_queue()
        retries, retry_on = options.pop("retries", 0), options.pop("retry_on", ())
        request = ServiceRequest(
            next(self._ids), name, method, args, options, time.monotonic() + timeout, self._responses
        )
        names = _type_names(retry_on) if retry_on else ()
        pending = _Pending(request, timeout, retries, names, asynchronous)
        if self._listener is None:
            self._listen()
        self._pending[request.request_id] = pending
        if asynchronous and self._blocked:
            self._responses.put(_WAKE)
        queue.put(request)
        return pending

    def _wait_for_room(self, timeout: float) -> None:
        if threading.current_thread() is self._listener:
            return  # a callback of a future: it must not wait for itself
        with self._room:
            self._room.wait_for(self._has_room, timeout)

    def _has_room(self) -> bool:
        self._crowded = True  # first: a consumer that makes room from now on says so
        return len(self._pending) < self._limit

    # -- responses ----------------------------------------------------------------------------------

    def _listen(self) -> None:
        with self._starting:
            if self._closed:
                raise ServiceCallError("Service call failed: the job has ended")
            if self._listener is None:
                listener = threading.Thread(
                    target=self._response_listener_loop, name=f"{self._name}.responses"
                )
                listener.start()
                self._listener = listener

    def _response_listener_loop(self) -> None:
        swept = time.monotonic()
        while True:
            try:
                response = self._next()
            except Empty:
                response = _WAKE
            if response is None:
                return
            if response is not _WAKE:
                self._deliver(response)
            del response  # a stream in it ends once its caller alone forgets it
            if (now := time.monotonic()) - swept > _SWEEP_EVERY:
                swept = now
                self._sweep()

    def _next(self) -> Any:
        """The next response; waits without a time-out only if no future may have to be given up meanwhile."""
        self._blocked = True
        try:
            if self._pending or self._due:
                self._blocked = False
                return self._responses.get(timeout=_SWEEP_EVERY)
            return self._responses.get()
        finally:
            self._blocked = False

    def _deliver(self, response: ServiceResponse) -> None:
        pending = self._pending.get(response.request_id)
        if pending is None:
            return  # its caller has given up
        if not response.success and pending.wants_retry(response):
            delay = min(_LAST_DELAY, _FIRST_DELAY * 2 ** (pending.request.attempt - 1))
            due = time.monotonic() + jittered(delay)
            heapq.heappush(self._due, (due, pending.request.request_id, pending))
            return
        self._forget(response.request_id)
        pending.complete(response)

    def _forget(self, request_id: int) -> None:
        self._pending.pop(request_id, None)
        if self._crowded:
            with self._room:
                self._crowded = False
                self._room.notify_all()

    def _sweep(self) -> None:
        """Send what is due for a retry, give up futures whose time has passed."""
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            self._again(heapq.heappop(self._due)[2])
        for pending in list(self._pending.values()):
            if pending.future is not None and pending.request.expired:
                self._forget(pending.request.request_id)
                pending.give_up()

    def _again(self, pending: _Pending) -> None:
        if pending.request.request_id in self._pending:
            pending.request = replace(pending.request, attempt=pending.request.attempt + 1)
            self._queues[pending.request.service_name].put(pending.request)

    def shutdown(self) -> None:
        """End the listener; calls that still wait fail. A second call does nothing."""
        with self._starting:
            listener, self._listener, self._closed = self._listener, None, True
        if listener is not None and listener is not threading.current_thread():
            self._responses.put(None)
            listener.join()
        for request_id, pending in list(self._pending.items()):
            self._forget(request_id)
            pending.complete(ServiceResponse.failure(request_id, ServiceCallError("the job has ended")))
        self.forget_queues()


def _type_names(retry_on: Any) -> tuple[str, ...]:
    """Names of exception types, given as types or names, one or several."""
    several = retry_on if isinstance(retry_on, tuple | list | set | frozenset) else (retry_on,)
    names = tuple(one if isinstance(one, str) else getattr(one, "__name__", "") for one in several)
    if not all(names):
        raise ConfigError(f"retry_on takes exception types or their names, not {retry_on!r}")
    return names


def _failed(response: ServiceResponse) -> ServiceCallError:
    error = ServiceCallError(f"Service call failed: {response.error}")
    error.__cause__ = response.exception
    return error
