"""Sessions: the state that the tasks and services of one job share in one worker process."""

from __future__ import annotations

import asyncio
from typing import Any

from dynamo_tasks.pipelines.calls.context import ServiceContext, TaskContext
from dynamo_tasks.pipelines.calls.proxy import ProxyManager
from dynamo_tasks.pipelines.calls.queues import QueueDescriptor
from dynamo_tasks.pipelines.calls.service_caller import ServiceManager
from dynamo_tasks.pipelines.celery.job_watch import JobWatch
from dynamo_tasks.pipelines.celery.queue import CeleryQueueDescriptor, EndpointQueueDescriptor, Remote
from dynamo_tasks.pipelines.graph.operators import Stage
from dynamo_tasks.pipelines.plans.plan import Plan, ServicePlan
from dynamo_tasks.pipelines.plans.trust import Trust
from dynamo_tasks.protocol.names import EndpointId

__all__ = ["JobSession", "JobSessions", "queues_of"]


def queues_of(plan: Plan, remote: Remote) -> dict[str, QueueDescriptor]:
    """The request queues of a job's services."""

    return {one.name: _queue_of(plan, one, remote) for one in plan.services}


def _queue_of(plan: Plan, service: ServicePlan, remote: Remote) -> QueueDescriptor:
    name = service.name
    if service.endpoint:
        endpoint = EndpointId.parse(service.endpoint)
        return EndpointQueueDescriptor(name, remote, endpoint, service.endpoint_streams)
    return CeleryQueueDescriptor(
        name, remote, lambda method: plan.endpoint(name, method), service.methods, service.streams
    )


class JobSession:
    """One job in one process.

    Args:
        plan: The job.
        remote: The way to Redis.
        trust: What of the plan may be run here.
        stages: Its operators, loaded.
    """

    def __init__(self, plan: Plan, remote: Remote, trust: Trust, stages: dict[str, Stage]):
        self.plan = plan
        self.remote = remote
        self.trust = trust
        self.stages = stages
        self.watch = JobWatch(remote.runtime, plan)
        settings = plan.settings
        self.manager = ServiceManager(
            queues_of(plan, remote), name=plan.id, max_in_flight=settings.max_in_flight
        )
        self.users = 0

    def _common(self) -> dict[str, Any]:
        proxy = ProxyManager.of(self.manager, self.plan.settings)
        return {"env_name": self.plan.name, "job_id": self.plan.id, "proxy": proxy}

    def task_context(self, name: str, index: int, parallelism: int) -> TaskContext:
        """The context of one task of an operator."""
        return TaskContext(name, task_index=index, parallelism=parallelism, **self._common())

    def service_context(self, name: str, parallelism: int) -> ServiceContext:
        """The context of a service."""
        queue = self.manager.service_qds[name]
        return ServiceContext(name, request_qd=queue, parallelism=parallelism, **self._common())

    async def close(self) -> None:
        """End the session: the last task of the job here has ended."""
        await self.watch.stop()
        await asyncio.to_thread(self.manager.shutdown)


class JobSessions:
    """The jobs that this process works for.

    Args:
        remote: The way to Redis.
    """

    def __init__(self, remote: Remote):
        self.remote = remote
        self._open: dict[str, JobSession] = {}
        self._changing = asyncio.Lock()

    async def enter(self, plan: Plan, trust: Trust) -> JobSession:
        """The session of a job; give it back with :meth:`leave`.

        Raises:
            ConfigError: something of the plan may not be run here, or cannot be imported.
        """
        async with self._changing:
            session = self._open.get(plan.id)
            if session is None:
                stages = await asyncio.to_thread(plan.stages, trust)  # imports take their time
                session = JobSession(plan, self.remote, trust, stages)
                await session.watch.start()
                self._open[plan.id] = session
            session.users += 1
            return session

    async def leave(self, session: JobSession) -> None:
        """Leave the session, since a task has ended; the last one closes it."""
        async with self._changing:
            session.users -= 1
            if session.users == 0:
                del self._open[session.plan.id]
                await session.close()
