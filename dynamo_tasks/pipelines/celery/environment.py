"""Pipelines on workers."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Self

import msgspec

from dynamo_tasks.config import suggest
from dynamo_tasks.errors import ConfigError
from dynamo_tasks.pipelines.calls.context import BaseRuntimeContext
from dynamo_tasks.pipelines.calls.proxy import ProxyManager
from dynamo_tasks.pipelines.calls.service_caller import ServiceManager
from dynamo_tasks.pipelines.celery.job import RemoteJob, launch
from dynamo_tasks.pipelines.celery.queue import Remote
from dynamo_tasks.pipelines.celery.session import queues_of
from dynamo_tasks.pipelines.environment import BaseEnvironment
from dynamo_tasks.pipelines.graph.job import Job, JobState
from dynamo_tasks.pipelines.graph.operators import Stage
from dynamo_tasks.pipelines.plans.plan import Plan, make_plan
from dynamo_tasks.pipelines.service_connection import Connection
from dynamo_tasks.protocol.names import check_namespace
from dynamo_tasks.store.bridge import bridge
from dynamo_tasks.store.jobs import Jobs
from dynamo_tasks.wiring import ray_environment

__all__ = ["BACKENDS", "RemoteEnvironment"]

BACKENDS = ("celery", "ray")


class RemoteEnvironment(BaseEnvironment):
    """Runs operators and services on workers that share a Redis server::

        celery -A dynamo_tasks worker --operators shop.steps,shop.services

    Functions and services travel as import paths with JSON arguments, so they live in modules that the workers can
    import, and that their operator allows. Records are JSON.

    Args:
        name: ``[A-Za-z0-9_-]+``.
        config: See :class:`~dynamo_tasks.pipelines.calls.settings.Settings`.
        backend: ``celery``; or ``ray``, where services and operators are actors of a Ray cluster.

    Raises:
        ConfigError: an unknown backend, or a setting that is not allowed.
    """

    def __new__(cls, name: str, config: Mapping[str, Any] | None = None, backend: str = "celery") -> Self:
        """Make the kind of the backend."""
        if backend != "ray":
            return super().__new__(cls)
        made: Self = super().__new__(ray_environment())
        return made

    def __init__(self, name: str, config: Mapping[str, Any] | None = None, backend: str = "celery"):
        if backend not in BACKENDS:
            raise ConfigError(
                f"RemoteEnvironment has no backend {backend!r}{suggest(str(backend), BACKENDS)}"
            )
        super().__init__(name, config)
        self.backend = backend
        check_namespace(self.config.namespace)

    @cached_property
    def _remote(self) -> Remote:
        """The way to Redis, from the first use on."""
        return Remote.open(self.config.redis_url)

    def _plan(self, stages: list[Stage]) -> Plan:
        settings = msgspec.structs.replace(self.config, redis_url=None)
        job_id = f"{self.name}-{secrets.token_hex(4)}"
        factories, endpoints = self.service_factories.values(), self.service_endpoints.values()
        return make_plan(job_id, self.name, settings, stages, factories, endpoints)

    def _launch(self) -> Job:
        return self._start(self._plan(self.stages))

    def _start(self, plan: Plan) -> RemoteJob:
        bridge().call(launch(plan, self._remote))
        return RemoteJob(plan, self._remote)

    def job(self, job_id: str) -> Job:
        """A handle on a job that was submitted before, by this process or another one.

        Raises:
            RequestNotFoundError: there is none of that id.
        """
        jobs = Jobs(self._remote.runtime.client.store, self.config.namespace)
        return RemoteJob(Plan.decode(bridge().call(jobs.get(job_id)).plan), self._remote)

    def connect(self) -> Connection:
        """See :func:`dynamo_tasks.pipelines.service_connection.connect`."""
        running = bridge().call(self._running(self._remote))
        job = running or self._start(self._plan([]))
        manager = ServiceManager(
            queues_of(job.plan, self._remote), name=job.id, max_in_flight=self.config.max_in_flight
        )
        proxy = ProxyManager.of(manager, self.config)

        def close() -> None:
            manager.shutdown()
            if running is None:
                job.stop(drain=False)

        return Connection(
            BaseRuntimeContext("connection", env_name=self.name, job_id=job.id, proxy=proxy), close
        )

    def running(self) -> Job | None:
        """The newest job of this environment that runs, from any process."""
        return bridge().call(self._running(self._remote))

    async def _running(self, remote: Remote) -> RemoteJob | None:
        jobs = Jobs(remote.runtime.client.store, self.config.namespace)
        for job_id in await jobs.ids():
            if job_id.rpartition("-")[0] != self.name or await jobs.state(job_id) != JobState.RUNNING:
                continue
            return RemoteJob(Plan.decode((await jobs.get(job_id)).plan), remote)
        return None

    def close(self) -> None:
        """Stop all jobs that were submitted here and still run, and disconnect."""
        self.stop()
        if "_remote" in self.__dict__:
            self.__dict__.pop("_remote").close()
