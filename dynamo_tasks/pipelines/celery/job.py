"""A job that runs on workers, as the process that submitted it sees it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import msgspec

from dynamo_tasks.errors import DynamoError, JobFailedError, RequestNotFoundError
from dynamo_tasks.observe.log import event
from dynamo_tasks.pipelines.celery.job_status import status_of
from dynamo_tasks.pipelines.celery.job_watch import JobWatch
from dynamo_tasks.pipelines.celery.queue import Remote
from dynamo_tasks.pipelines.celery.worker import ServeRequest, TaskRequest
from dynamo_tasks.pipelines.graph.job import Job, JobState, JobStatus
from dynamo_tasks.pipelines.graph.operators import DeadLetter
from dynamo_tasks.pipelines.plans import signed
from dynamo_tasks.pipelines.plans.plan import COMPONENT, Plan
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.protocol.options import RequestOptions
from dynamo_tasks.queue.broker.envelope import build_request
from dynamo_tasks.store.bridge import bridge
from dynamo_tasks.store.jobs import Jobs
from dynamo_tasks.store.ledger.submission import NewRequest
from dynamo_tasks.store.redis.retry import retry_until_up

__all__ = ["RemoteJob", "launch"]

T = TypeVar("T")
_POLL = 0.5
_CONNECT_SECONDS = 10.0
"""Seconds that a question may wait for Redis to come back."""
_SLOW_START = 5.0
"""Seconds within which workers should have begun all of a job."""


async def launch(plan: Plan, remote: Remote) -> None:
    """Begin a job and queue all of its tasks and services, in one step; harmless when repeated."""
    store = remote.runtime.client.store
    jobs = Jobs(store, plan.namespace)
    requests = [
        _request(plan, store.prefix, "serve", f"@{one.name}", ServeRequest(plan.id, one.name))
        for one in plan.hosted
    ]
    requests += [
        _request(plan, store.prefix, "operate", task, TaskRequest(plan.id, one.name, index))
        for one in plan.operators
        for index, task in enumerate(one.tasks)
    ]
    begin = partial(jobs.start, plan.id, plan.name, signed.seal(plan.encode()), plan.producers(), requests)
    try:
        await retry_until_up(store.commands, begin, _CONNECT_SECONDS)
    except DynamoError:
        with contextlib.suppress(DynamoError):  # a full Redis server may have taken a part of it
            await jobs.end(plan.id, JobState.FAILED, "it could not be submitted as a whole")
        raise


def _request(plan: Plan, prefix: str, endpoint: str, what: str, payload: Any) -> NewRequest:
    where = EndpointId(plan.namespace, COMPONENT, endpoint)
    request_id = plan.request_id(what)
    options = RequestOptions(background=True, ignore_result=True)
    built = msgspec.to_builtins(payload)
    # With the job's records, on the first lane.
    return build_request(where, request_id, built, options, queue=where.queue, prefix=prefix, lane=1)


class RemoteJob(Job):
    """See :class:`~dynamo_tasks.pipelines.graph.job.Job`. A handle: the job lives on without it.

    Args:
        plan: The job.
        remote: The way to Redis.
    """

    def __init__(self, plan: Plan, remote: Remote):
        self.plan = plan
        self.id = plan.id
        self.name = plan.name
        self._remote = remote
        self._jobs = Jobs(remote.runtime.client.store, plan.namespace)

    def wait(self, timeout: float | None = None) -> JobStatus:
        """See :meth:`Job.wait`."""
        status = self._await_end(timeout)
        if status.state is JobState.FAILED:
            raise JobFailedError(f"job {self.id} failed: {status.error}")
        return status

    def _await_end(self, timeout: float | None) -> JobStatus:
        try:
            bridge().call(self._over(), timeout)
        except TimeoutError:
            raise TimeoutError(f"job {self.id} is not over after {timeout} s") from None
        return self.status()

    async def _over(self) -> None:
        watch = JobWatch(self._remote.runtime, self.plan)
        await watch.start()
        try:
            await self._report_unbegun(watch)
            await watch.wait_over()
            if watch.state == "GONE":
                raise RequestNotFoundError(f"no job {self.id!r} is known any more")
            await retry_until_up(self._jobs.store.commands, self._cleared)
        finally:
            await watch.stop()

    async def _report_unbegun(self, watch: JobWatch) -> None:
        """Say once that it waits for slots: with too few of them it may wait for ever."""
        try:
            async with asyncio.timeout(_SLOW_START):
                await watch.wait_over()
        except TimeoutError:
            if watch.unbegun:
                event("job.unbegun", job=self.id, unbegun=watch.unbegun, requests=len(self.plan.requests))

    async def _cleared(self) -> None:
        """Wait until its requests have ended, too: they end just after it."""
        plan = self.plan
        ids = list(plan.requests.values())
        while True:
            states = [state for state, _ in await self._jobs.request_states(ids)]
            if "QUEUED" not in states and "RUNNING" not in states:
                return
            for request_id, state in zip(ids, states, strict=True):
                if state == "QUEUED":  # nobody has begun it, and there is nothing to do for it any more
                    await self._remote.runtime.client.ledger.cancel(
                        plan.namespace, request_id, guard="queued"
                    )
            await asyncio.sleep(0.02)

    def stop(self, *, drain: bool = True, timeout: float | None = None) -> JobStatus:
        """See :meth:`Job.stop`."""
        state = JobState.STOPPING if drain and self._ask(self._begun) else JobState.STOPPED
        self._ask(lambda: self._jobs.end(self.id, state))
        return self._await_end(timeout)

    async def _begun(self) -> bool:
        """Return whether anything of it runs, or has run: else nothing is on its way."""
        states = await self._jobs.request_states(self.plan.requests.values())
        return any(state != "QUEUED" for state, _ in states)

    def status(self) -> JobStatus:
        """See :meth:`Job.status`."""
        return self._ask(lambda: status_of(self._jobs, self.plan))

    @property
    def is_over(self) -> bool:
        """See :attr:`Job.is_over`; Redis forgets a job a day after its end."""
        try:
            return super().is_over
        except RequestNotFoundError:
            return True

    def _ask(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask Redis; a short outage is waited out."""
        return bridge().call(retry_until_up(self._jobs.store.commands, ask, within=_CONNECT_SECONDS))

    def results(self) -> Iterator[Any]:
        """See :meth:`Job.results`."""
        return bridge().iterate(self._results())

    async def _results(self) -> AsyncIterator[Any]:
        watch = JobWatch(self._remote.runtime, self.plan)
        await watch.start()
        seen = 0
        try:
            while True:
                over = watch.over  # before the look: what was collected until then is there
                found = await retry_until_up(
                    self._jobs.store.commands, partial(self._jobs.results, self.id, seen)
                )
                for value in found:
                    yield value
                seen += len(found)
                if over and not found:
                    return
                if not found:
                    await watch.wait("@results", _POLL)
        finally:
            await watch.stop()

    def dead_letters(self) -> list[DeadLetter]:
        """See :meth:`Job.dead_letters`."""
        return [DeadLetter(*row) for row in self._ask(lambda: self._jobs.dead_letters(self.id))]
