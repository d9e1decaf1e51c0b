"""A process's view of a job: its state, and notifications for those who wait for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict

import msgspec

from dynamo_tasks.errors import DynamoError
from dynamo_tasks.pipelines.graph.job import JobState
from dynamo_tasks.pipelines.plans.plan import Plan
from dynamo_tasks.runtime.components.component import DistributedRuntime
from dynamo_tasks.runtime.supervision.actor import Actor
from dynamo_tasks.store.jobs import Jobs
from dynamo_tasks.store.redis.containment import contained
from dynamo_tasks.store.redis.retry import retry_until_up

__all__ = ["JobWatch"]

_POLL = 1.0
_ABOUT = ("@room", "@results", "@state")
_DEAD = ("FAILED", "CANCELLED", "EXPIRED")


class JobWatch(Actor):
    """Follows a job: by its channel, and by looking once a second, since a push may be lost.

    Any process that watches a job fails it when a request that runs one of its tasks or services has ended badly: a
    worker that was lost too often says nothing itself.

    Args:
        runtime: Connections of the process.
        plan: The job.

    Attributes:
        state: The job's, as last seen; ``GONE`` once Redis does not know it any more.
        stop_asked: Set once its sources are to end.
        unbegun: Tasks and services for which no worker has had a slot yet, as last seen.
    """

    def __init__(self, runtime: DistributedRuntime, plan: Plan):
        self.jobs = Jobs(runtime.client.store, plan.namespace)
        self.state: str = JobState.RUNNING
        self._plan = plan
        self._channels = runtime.registry.channels
        self._channel = self.jobs.channel(plan.id)
        self._news: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        # Anybody may publish any name: nothing is kept for others.
        self._names = {"", *plan.requests, *_ABOUT}
        self._poked = asyncio.Event()
        self.stop_asked = asyncio.Event()
        self.unbegun = 0
        self.name = f"watch-{plan.id}"

    @property
    def over(self) -> bool:
        """``True`` once it has ended."""
        return self.state not in (JobState.RUNNING, JobState.STOPPING)

    @property
    def stopping(self) -> bool:
        """``True`` once its sources are to end."""
        return self.state != JobState.RUNNING

    def news(self, about: str) -> asyncio.Event:
        """The event that is set by news about a task, ``@room``, ``@results`` or ``@state``."""
        return self._news[about]

    async def wait(self, about: str, timeout: float = _POLL) -> None:
        """Wait for news, or for the time to look oneself."""
        event = self._news[about]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await event.wait()
        event.clear()

    async def wait_over(self) -> None:
        """Wait for its end."""
        while not self.over:
            await self.wait("@state")

    async def start(self) -> None:
        """Subscribe and look for the first time; waits for Redis."""
        await retry_until_up(
            self.jobs.store.commands, lambda: self._channels.listen(self._channel, self._heard)
        )
        await retry_until_up(self.jobs.store.commands, self._look)
        await super().start()

    async def stop(self) -> None:
        """End; idempotent."""
        self._channels.forget(self._channel, self._heard)
        await super().stop()

    def _heard(self, payload: bytes) -> None:
        about = payload.decode()
        if about not in self._names:
            return
        if about in ("", "@state"):
            self._poked.set()
        for event in [self._news[about]] if about else list(self._news.values()):
            event.set()

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL):
                    await self._poked.wait()
            self._poked.clear()
            with contextlib.suppress(DynamoError), contained("job", self._plan.id):
                await self._look()

    async def _look(self) -> None:
        self.state = await self.jobs.state(self._plan.id)
        if not self.over:
            await self._check_requests()
        if self.stopping:
            self.stop_asked.set()
        if self.over:
            for event in list(self._news.values()):
                event.set()

    async def _check_requests(self) -> None:
        requests = self._plan.requests
        states = await self.jobs.request_states(requests.values())
        self.unbegun = sum(state == "QUEUED" for state, _ in states)
        for name, (state, error) in zip(requests, states, strict=True):
            if state in _DEAD:
                message = msgspec.json.decode(error)["message"] if error else state.lower()
                await self.jobs.end(self._plan.id, JobState.FAILED, f"{name.lstrip('@')}: {message}")
                self.state = JobState.FAILED
                return
