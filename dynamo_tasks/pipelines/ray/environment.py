"""Pipelines on Ray."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dynamo_tasks.errors import RequestNotFoundError
from dynamo_tasks.pipelines.celery.environment import RemoteEnvironment
from dynamo_tasks.pipelines.graph.job import Job
from dynamo_tasks.pipelines.local.job import connect_within
from dynamo_tasks.pipelines.ray.cluster import ensure_ray_initialized
from dynamo_tasks.pipelines.ray.job import RayJob, RayServices
from dynamo_tasks.pipelines.service_connection import Connection

__all__ = ["RayEnvironment"]


class RayEnvironment(RemoteEnvironment):
    """The class of ``RemoteEnvironment(…, backend="ray")``; needs the extra ``ray``, and no Redis server."""

    def __init__(self, name: str, config: Mapping[str, Any] | None = None, backend: str = "ray"):
        super().__init__(name, config, backend)

    def _launch(self) -> Job:
        ensure_ray_initialized(self.config.ray_address)
        return RayJob(self, RayServices(self)).start()

    def connect(self) -> Connection:
        """See :func:`dynamo_tasks.pipelines.service_connection.connect`."""
        ensure_ray_initialized(self.config.ray_address)
        return connect_within(self, RayServices)

    def job(self, job_id: str) -> Job:
        """A job that this environment submitted: jobs on Ray belong to their process.

        Raises:
            RequestNotFoundError: there is none of that id.
        """
        for job in self.jobs:
            if job.id == job_id:
                return job
        raise RequestNotFoundError(f"no job {job_id!r} of this environment is known")

    def running(self) -> Job | None:
        """The newest job of this environment that runs."""
        return next((job for job in reversed(self.jobs) if not job.is_over), None)

    def close(self) -> None:
        """Stop all jobs; Ray itself stays, for other environments of the process."""
        self.stop()
