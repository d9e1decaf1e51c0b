"""The worker pool: endpoints on the event loop of the worker process, plain tasks in threads.

vLLM batches continuously, so one process runs hundreds of requests at once on one loop. Late acks, time
limits, ``revoke(terminate=True)`` of one request, grow and shrink, and the three ways to shut down work
as with prefork. A message is taken only when a slot is free: the prefetch count is the number of slots.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any, Protocol

from celery import signals
from celery.concurrency.base import BasePool
from celery.exceptions import WorkerLostError

from dynamo_tasks.queue import greenlets
from dynamo_tasks.queue.execution.attempt import Execution
from dynamo_tasks.queue.execution.outcome import Stop
from dynamo_tasks.queue.execution.preemption import Preemption
from dynamo_tasks.queue.worker.foreign import threads
from dynamo_tasks.sdk.endpoints.handler import named

__all__ = ["PoolJob", "TaskPool", "current_job"]

_MAX_THREADS = 100_000
"""No bound of its own: the slots say how much runs at once, and a thread is only started where none is idle."""
current_job: ContextVar[PoolJob | None] = ContextVar("dynamo_job", default=None)


class PoolJob:
    """One request in the pool; Celery's handle on it."""

    def __init__(
        self, pool: TaskPool, target: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]
    ):
        self._pool = pool
        self._target = target
        self._args = args
        self._options = options
        self._timers: list[asyncio.TimerHandle] = []
        self._asked: Stop | None = None
        self.threaded = False
        self.aside: greenlets.Aside | None = None
        self.execution: Execution | None = None
        self.time_limit: float | None = options.get("timeout") or pool.options.get("timeout")
        self._loop = asyncio.get_running_loop()
        self.task = self._loop.create_task(self._run())

    async def _run(self) -> None:
        accept = self._options.get("accept_callback")
        if accept is not None:
            accept(os.getpid(), time.monotonic())
        # Celery's code of an earlier attempt still runs: the state that it writes must not come after ours.
        if earlier := self._pool.passing.get(self._args[1]):
            await asyncio.wait([earlier])
        self._start_timers()
        try:
            current_job.set(self)
            result = await self._run_target()
            if self.execution is not None:
                await self.execution.settle()
                # A thread that was left behind works on: it holds the slot until it has ended.
                await self.execution.context.idle()
        except Exception as exc:  # noqa: BLE001 - passed to Celery, whatever it is
            await self._notify("error_callback", _exception_info(exc))
        else:
            await self._notify("callback", result, is_failure=bool(result[0]))
        finally:
            for timer in self._timers:
                timer.cancel()

    async def _notify(self, name: str, outcome: Any, *, is_failure: bool = True) -> None:
        """Notify Celery's request; some kinds of failures it keeps, and sends around, itself."""
        callback = self._options.get(name)
        if callback is None:
            return
        if is_failure and (self.threaded or self.aside is not None):
            await greenlets.Aside(threads()).run(callback, outcome)
        else:
            callback(outcome)

    async def _run_target(self) -> Any:
        # What runs was registered before its message was taken: nothing is to be learned for it.
        task = self._pool.app._tasks.get(self._args[0])
        if not getattr(task, "runs_on_loop", False):
            self.threaded = True
            if self._pool.preemption.offers:
                self._pool.preemption.arrived()
            return await self._pool.run_in_thread(_run_guarded, self._target, *self._args)
        if not task.has_foreign_code(self._args[3][2]):
            return await greenlets.run(self._target, *self._args)
        self.aside = greenlets.Aside(threads())
        return await self.aside.run(_run_guarded, self._target, *self._args)

    def passes_on(self) -> None:
        """Another attempt may begin before Celery's code around this one has ended; in this worker it waits for that.

        Else the state that is written last could be the earlier one's.
        """
        if self.aside is not None:
            self._pool.passing[self._args[1]] = self.task

    @property
    def in_thread(self) -> bool:
        """``True`` while it runs in a thread, where nothing can interrupt it."""
        blocks = self.aside is not None and not self.aside.waits
        return self.threaded or blocks or (self.execution is not None and self.execution.context.busy)

    def release(self) -> None:
        """It is over: let go of everything. A job and its task know each other, and through them request and
        message: garbage that only the collector could free, and that is set to be slow."""
        if self.execution is not None:
            self.execution.leave()
        del self.task, self._target, self._args
        self._options, self.execution, self.aside = {}, None, None

    def _start_timers(self) -> None:
        loop = asyncio.get_running_loop()
        soft = self._options.get("soft_timeout") or self._pool.options.get("soft_timeout")
        if soft:
            self._timers.append(loop.call_later(soft, self._soft_limit, soft))
        if self.time_limit:
            self._timers.append(loop.call_later(self.time_limit, self._hard_limit))

    def attach(self, execution: Execution) -> None:
        """The task has begun its attempt; what was asked of the job before is passed on."""
        self.execution = execution
        execution.on_preempt = self.passes_on
        if self._asked is not None:
            execution.stop(self._asked)

    def _soft_limit(self, seconds: float) -> None:
        on_timeout = self._options.get("timeout_callback")
        if on_timeout is not None:
            on_timeout(True, seconds)
        if self.execution is not None:
            self.execution.soft_limit()

    def _hard_limit(self) -> None:
        if self.execution is not None:
            self.execution.stop(Stop("time_limit", f"{self.time_limit} s"))

    def terminate(self, signal: int | None = None) -> None:
        """Stop this request only; Celery calls it for ``revoke(terminate=True)``, in a thread."""
        self._loop.call_soon_threadsafe(self._ask, Stop("cancel"))

    def requeue(self) -> None:
        """The worker goes down: give the request back to its queue."""
        self._ask(Stop("requeue"))

    def _ask(self, stop: Stop) -> None:
        if self._asked is None:
            self._asked = stop
        if self.execution is not None:
            self.execution.stop(stop)


class Followed(Protocol):
    """Takes note of requests."""

    def begins(self, request_id: str) -> None:
        """One begins to run."""

    def ended(self, request_id: str) -> None:
        """One has ended."""


class TaskPool(BasePool):  # type: ignore[misc]
    """Pool of asyncio jobs; ``worker_pool = "dynamo_tasks.queue.worker.pool:TaskPool"``."""

    body_can_be_buffer = True
    uses_semaphore = False
    task_join_will_block = False
    signal_safe = False
    limit: int

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._jobs: set[PoolJob] = set()
        self._threads: ThreadPoolExecutor | None = None
        self.passing: dict[str, asyncio.Task[None]] = {}
        self.followed: Followed | None = None
        """Takes note of what begins and ends; ``None`` = nobody does."""
        self.preemption = Preemption()
        """Of the worker context, once it consumes."""
        self.stuck = False
        """``True`` if threads still run plain tasks that were left behind."""

    def on_start(self) -> None:
        """Celery callback."""
        self._threads = ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="dynamo-task")
        # The loop's own executor is bounded by the cores: endpoints that wait in threads would wait for each other.
        asyncio.get_running_loop().set_default_executor(self._threads)
        # Of a prefork child, whose place this process takes: libraries set themselves up for the process by it.
        signals.worker_process_init.send(sender=None)

    @property
    def slots(self) -> int:
        """Requests that may run at once: the limit, or what autoscaling may make of it."""
        scaler = getattr(getattr(self.app, "worker", None), "autoscaler", None)
        return int(scaler.max_concurrency if scaler is not None else self.limit)

    @property
    def running(self) -> int:
        """Requests that are here and have begun."""
        return len(self._jobs)

    async def run_in_thread(self, target: Callable[..., Any], *args: Any) -> Any:
        """Run a plain Celery task."""
        assert self._threads is not None
        return await asyncio.get_running_loop().run_in_executor(self._threads, target, *args)

    def on_apply(
        self,
        target: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> PoolJob:
        """Start a request; Celery keeps a weak reference to the job, the pool keeps it alive."""
        job = PoolJob(self, target, tuple(args), options)
        self._jobs.add(job)
        if self.followed is not None:
            self.followed.begins(args[1])
        job.task.add_done_callback(lambda task: self._done(job, task))
        return job

    def make_room(self) -> None:
        """Release running requests for those that are here without a slot, if there are such as may be released."""
        # Those that leave hold their slots a moment longer: that room is on its way.
        over = len(self._jobs) - self.slots - self.preemption.leaving
        while over > 0 and (offer := self.preemption.choose()) is not None:
            offer.release()
            over -= 1

    def _done(self, job: PoolJob, task: asyncio.Task[None]) -> None:
        self._jobs.discard(job)
        request_id = job._args[1]
        if self.passing.get(request_id) is task:
            del self.passing[request_id]
        job.release()
        if self.followed is not None:
            self.followed.ended(request_id)
        if self.preemption.offers:
            self.preemption.ended()

    def terminate_job(self, pid: int, signal: int | None = None) -> None:
        """Do nothing: every request has the pid of this process; :meth:`PoolJob.terminate` stops the one."""

    def grow(self, n: int = 1) -> None:
        """More slots."""
        self.limit += n

    def shrink(self, n: int = 1) -> None:
        """Fewer slots; what runs, runs on."""
        self.limit = max(1, self.limit - n)

    async def drain(self, timeout: float | None = None, on_done: Callable[[], None] = lambda: None) -> bool:
        """Wait until no request runs; returns whether that is so.

        Args:
            timeout: Seconds.
            on_done: Called whenever some have ended.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._jobs:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            await asyncio.wait(
                [job.task for job in self._jobs], timeout=left, return_when=asyncio.FIRST_COMPLETED
            )
            on_done()
        return True

    def requeue_spare(self) -> None:
        """Requeue those of them that use spare capacity, and can be continued."""
        for job in list(self._jobs):
            if job.execution is not None and job.execution.may_leave:
                job.requeue()

    def requeue_endpoints(self) -> None:
        """Requeue all running requests of endpoints; plain tasks run on."""
        for job in list(self._jobs):
            if not job.threaded:
                job.requeue()

    async def requeue(self, timeout: float = 2.0) -> None:
        """Requeue everything that runs."""
        for job in list(self._jobs):
            job.requeue()
        if all(job.in_thread for job in self._jobs):
            timeout = min(timeout, 0.1)  # nothing can interrupt a thread: there is nothing to wait for
        if not await self.drain(timeout):
            # What does not let go goes down with the process; its requests are found by their lease.
            self.stuck = any(job.in_thread for job in self._jobs)
            for job in list(self._jobs):
                job.task.cancel()

    def on_stop(self) -> None:
        """Warm shutdown: what runs, ends."""
        if greenlets.may_await():
            greenlets.await_(self.drain())
        self._close_threads()

    def on_terminate(self) -> None:
        """Cold shutdown: what runs is requeued."""
        if greenlets.may_await():
            greenlets.await_(self.requeue())
        self._close_threads()

    def _close_threads(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def _get_info(self) -> dict[str, Any]:
        info = super()._get_info()
        return {**info, "running": len(self._jobs), "processes": [os.getpid()], "timeouts": []}


def _run_guarded(target: Callable[..., Any], *args: Any) -> Any:
    """Call code of others in a thread; two exceptions must not come out of it as they are."""
    try:
        return target(*args)
    except (SystemExit, KeyboardInterrupt) as exc:
        # With prefork it ends a child that has one task; here it would end the process of all.
        raise WorkerLostError(f"the task raised {named(exc)}") from exc


def _exception_info(exc: BaseException) -> Any:
    from billiard.einfo import ExceptionInfo

    return ExceptionInfo((type(exc), exc, exc.__traceback__))
