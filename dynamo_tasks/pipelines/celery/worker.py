"""The workers of remote pipelines.

``celery -A dynamo_tasks worker --operators shop.steps,shop.services``
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import pkgutil
import sys
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import msgspec

from dynamo_tasks.config import DefaultName
from dynamo_tasks.errors import ConfigError, DynamoError, ServerUnavailableError
from dynamo_tasks.pipelines.calls.base_service_task import BaseServiceTask
from dynamo_tasks.pipelines.calls.factory import ServiceFactory
from dynamo_tasks.pipelines.calls.messages import describe_error
from dynamo_tasks.pipelines.celery.operator_task import OperatorTask, TaskRunner
from dynamo_tasks.pipelines.celery.queue import Remote
from dynamo_tasks.pipelines.celery.session import JobSession, JobSessions
from dynamo_tasks.pipelines.celery.source_task import SourceTask
from dynamo_tasks.pipelines.graph.job import JobState
from dynamo_tasks.pipelines.graph.operators import SOURCES
from dynamo_tasks.pipelines.job_services import create_service_task
from dynamo_tasks.pipelines.plans import signed
from dynamo_tasks.pipelines.plans.plan import Plan, ServicePlan
from dynamo_tasks.pipelines.plans.portable import is_path, load
from dynamo_tasks.pipelines.plans.trust import Trust, own_modules
from dynamo_tasks.runtime.hosting.instance_host import InstanceHost
from dynamo_tasks.runtime.resolver import RuntimeResolver
from dynamo_tasks.sdk import dynamo_endpoint, get_resolver, service
from dynamo_tasks.sdk.context import current_context
from dynamo_tasks.store.jobs import Jobs
from dynamo_tasks.store.redis.retry import retry_until_up

__all__ = ["Operators", "ServeRequest", "TaskRequest"]


class TaskRequest(msgspec.Struct):
    """Run one task of an operator."""

    job: str
    operator: str
    index: int


class ServeRequest(msgspec.Struct):
    """Host one service of a job until the job is over."""

    job: str
    service: str


@service(dynamo={"namespace": DefaultName("pipelines")})
class Operators:
    """Runs the tasks and hosts the services of pipelines' jobs.

    A task is one request, which lasts as long as the task: a worker that dies or hangs loses it to another one, which
    goes on after the last commit.

    Attributes:
        modules: Names of the modules whose functions and classes jobs may run here, each with those below it; by
            default those that the Celery application itself names. A plan that is signed as a whole needs none.
    """

    modules: ClassVar[list[str]] = []
    config_extras = None  # a key that is not known is a mistake

    def __init__(self) -> None:
        self.check_settings()
        self._sessions: JobSessions | None = None
        _load_all()

    @classmethod
    def check_settings(cls) -> None:
        """Refuse what names no module.

        Raises:
            ConfigError: says which.
        """
        for one in cls.modules:
            if not is_path(one):
                raise ConfigError(f"Operators.modules: {one!r} is no name of a module (shop, shop.steps)")

    @dynamo_endpoint(policy="continue")
    async def operate(self, request: TaskRequest) -> AsyncIterator[dict[str, Any]]:
        """Run a task of an operator to its end."""
        context = current_context()
        assert context is not None
        session = await self._enter(request.job)
        try:
            runner = _runner(session, request, context.claim)
            async for progress in runner.run():
                yield progress
        finally:
            await self._leave(session)

    @dynamo_endpoint(policy="continue")
    async def serve(self, request: ServeRequest) -> AsyncIterator[dict[str, Any]]:
        """Host a service; yields once it can be called, so that the attempt counts as fruitful."""
        session = await self._enter(request.job)
        try:
            [plan] = [one for one in session.plan.services if one.name == request.service]
            async for started in self._serve(session, plan):
                yield started
        finally:
            await self._leave(session)

    async def _serve(self, session: JobSession, plan: ServicePlan) -> AsyncIterator[dict[str, Any]]:
        task: BaseServiceTask | None = None
        try:
            if session.watch.over:
                return
            task = await asyncio.to_thread(_make_service, session, plan, _host())
            await asyncio.to_thread(task.start_running)
            yield {"service": plan.name}
            await _report_statistics(session, task)
        except Exception as exc:
            message = f"service {plan.name}: {describe_error(exc)}"
            jobs = session.watch.jobs
            await retry_until_up(
                jobs.store.commands, lambda: jobs.end(session.plan.id, JobState.FAILED, message)
            )
            raise
        finally:
            if task is not None:
                await asyncio.to_thread(task.cleanup)
            if session.watch.over:
                with contextlib.suppress(ServerUnavailableError):
                    await session.watch.jobs.forget_queue(task_queue(session.plan, plan))

    async def _enter(self, job_id: str) -> JobSession:
        if self._sessions is None:
            runtime = _resolver().runtime
            assert runtime is not None
            self._sessions = JobSessions(Remote(runtime, asyncio.get_running_loop()))
        sessions = self._sessions
        jobs = Jobs(sessions.remote.runtime.client.store, _namespace())
        sent = (await retry_until_up(jobs.store.commands, lambda: jobs.get(job_id))).plan
        try:
            plan = Plan.decode(sent)
            if (plan.id, plan.namespace) != (job_id, jobs.namespace):
                raise ConfigError(
                    f"job {job_id!r} has the plan of job {plan.id!r} of namespace {plan.namespace!r}"
                )
            return await sessions.enter(plan, self._trust(sent))
        except ConfigError as exc:
            message = exc.message
            await retry_until_up(jobs.store.commands, lambda: jobs.end(job_id, JobState.FAILED, message))
            raise

    def _trust(self, plan: bytes) -> Trust:
        modules = tuple(self.modules) or own_modules(_resolver().app)
        return Trust(modules, signed.is_sealed(plan))

    async def _leave(self, session: JobSession) -> None:
        assert self._sessions is not None
        await self._sessions.leave(session)


def _load_all() -> None:
    """Import what jobs may need of this package now: later its files may be another release's."""
    package = sys.modules[__name__.rpartition(".celery.")[0]]
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.startswith(f"{package.__name__}.ray"):
            importlib.import_module(module.name)


def task_queue(plan: Plan, service: ServicePlan) -> str:
    """The queue of a service's component."""
    return plan.endpoint(service.name, "process").queue


async def _report_statistics(session: JobSession, task: BaseServiceTask) -> None:
    """Note the service's numbers with the job, every second and at its end."""
    watch = session.watch
    while True:
        over = watch.over
        with contextlib.suppress(ServerUnavailableError):
            await watch.jobs.note_service(session.plan.id, task.name, task.get_statistics())
        if over:
            return
        await watch.wait("@state")


def _runner(session: JobSession, request: TaskRequest, claim: tuple[int, int]) -> TaskRunner:
    plan = session.plan.operator(request.operator)
    kind = SourceTask if plan.kind in SOURCES else OperatorTask
    return kind(session, plan, request.index, claim)


def _make_service(session: JobSession, plan: ServicePlan, host: InstanceHost) -> BaseServiceTask:
    spec = load(plan.function, session.trust)
    factory = ServiceFactory(plan.name, spec.target, spec.args, spec.kwargs, parallelism=plan.parallelism)
    ctx = session.service_context(plan.name, plan.parallelism)
    return create_service_task(factory, ctx, plan=session.plan, host=host, loop=session.remote.loop)


def _resolver() -> RuntimeResolver:
    found = get_resolver()
    if not isinstance(found, RuntimeResolver):
        raise DynamoError("tasks of pipelines run in a worker process only")
    return found


def _namespace() -> str:
    own: Any = Operators  # a service, once it is decorated
    return str(own.namespace_name)


def _host() -> InstanceHost:
    found = _resolver().host
    if found is None:
        raise DynamoError("services of pipelines are hosted in a worker process only")
    return found
