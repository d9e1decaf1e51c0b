"""The status of a remote job, read from Redis; needs nothing of Celery."""

from __future__ import annotations

import time

from dynamo_tasks.pipelines.graph.job import JobState, JobStatus, OperatorStatus
from dynamo_tasks.pipelines.graph.operators import SOURCES
from dynamo_tasks.pipelines.plans.plan import OperatorPlan, Plan
from dynamo_tasks.store.job_records import COUNTERS, Checkpoint
from dynamo_tasks.store.jobs import Jobs

__all__ = ["status_of"]


async def status_of(jobs: Jobs, plan: Plan) -> JobStatus:
    """Read the status of a job.

    Raises:
        RequestNotFoundError: Redis does not know it any more.
    """
    record = await jobs.get(plan.id)
    tasks = [task for one in plan.operators for task in one.tasks]
    found = dict(zip(tasks, await jobs.checkpoints(plan.id, tasks), strict=True))
    elapsed = max((record.finished or time.time()) - record.started, 1e-3)
    operators = [_operator(one, [found[task] for task in one.tasks], elapsed) for one in plan.operators]
    services = await jobs.service_notes(plan.id, [one.name for one in plan.hosted])
    states = await jobs.request_states(plan.requests.values()) if record.finished is None else []
    return JobStatus(
        plan.id,
        plan.name,
        "celery",
        JobState(record.state),
        record.started,
        record.error,
        operators,
        services,
        sum(state == "QUEUED" for state, _ in states),
    )


def _operator(plan: OperatorPlan, tasks: list[Checkpoint], elapsed: float) -> OperatorStatus:
    total = {name: sum(task.counts[name] for task in tasks) for name in COUNTERS}
    taken = total["out"] if plan.kind in SOURCES else total["in"]
    return OperatorStatus(
        plan.name, plan.kind, plan.parallelism, total["in"], total["out"], total["skipped"], total["dead"],
        sum(task.waiting for task in tasks), round(taken / elapsed, 3),
    )  # fmt: skip
