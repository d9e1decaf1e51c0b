"""The jobs on a Redis server, for ``dynamo-tasks status``."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from dynamo_tasks.config.host.redis_lanes import split_lanes
from dynamo_tasks.config.host.redis_server import key_prefix
from dynamo_tasks.errors import ConfigError, RequestNotFoundError
from dynamo_tasks.pipelines.celery.job_status import status_of
from dynamo_tasks.pipelines.graph.job import JobState, JobStatus
from dynamo_tasks.pipelines.plans.plan import Plan
from dynamo_tasks.store.job_records import JobRecord
from dynamo_tasks.store.jobs import Jobs
from dynamo_tasks.store.redis.containment import contained
from dynamo_tasks.store.redis.server import Store

__all__ = ["gather_jobs", "jobs_of"]


def jobs_of(url: str, namespaces: list[str]) -> list[dict[str, Any]]:
    """Every job that is known, newest first: a :class:`~dynamo_tasks.pipelines.JobStatus` with its ``namespace``.

    Raises:
        ServerUnavailableError: Redis cannot be reached.
    """
    return asyncio.run(_with_store(url, namespaces))


async def _with_store(url: str, namespaces: list[str]) -> list[dict[str, Any]]:
    store = await Store.connect(split_lanes(url)[0], prefix=key_prefix())
    try:
        return [row for namespace in namespaces for row in await gather_jobs(store, namespace)]
    finally:
        await store.close()


async def gather_jobs(store: Store, namespace: str) -> list[dict[str, Any]]:
    """The jobs of one namespace, on a store that is connected."""
    jobs, found = Jobs(store, namespace), []
    for job_id in await jobs.ids():
        # One that ended a day ago is still in the index; one that cannot be read hides no others.
        with contained("job", job_id), contextlib.suppress(RequestNotFoundError):
            status = await _status(jobs, await jobs.get(job_id))
            found.append({"namespace": namespace, **status.as_dict()})
    return found


async def _status(jobs: Jobs, record: JobRecord) -> JobStatus:
    """Read the status of a job; without its operators where another release wrote its plan."""
    try:
        plan = Plan.decode(record.plan)
    except ConfigError:
        state = JobState(record.state)
        return JobStatus(record.id, record.name, "celery", state, record.started, record.error)
    return await status_of(jobs, plan)
