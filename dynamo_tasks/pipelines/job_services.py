"""The services of a job: their queues, contexts and tasks, and the manager that calls them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from dynamo_tasks.pipelines.calls.base_service_task import BaseServiceTask
from dynamo_tasks.pipelines.calls.context import ServiceContext, TaskContext
from dynamo_tasks.pipelines.calls.factory import ServiceEndpoint, ServiceFactory
from dynamo_tasks.pipelines.calls.proxy import ProxyManager
from dynamo_tasks.pipelines.calls.queues import LocalQueueDescriptor, QueueDescriptor
from dynamo_tasks.pipelines.calls.service_caller import ServiceManager
from dynamo_tasks.pipelines.local.service_task import LocalServiceTask

if TYPE_CHECKING:
    from dynamo_tasks.pipelines.celery.queue import Remote
    from dynamo_tasks.pipelines.environment import BaseEnvironment

__all__ = ["JobServices", "create_service_task"]


def create_service_task(factory: ServiceFactory, ctx: ServiceContext, **where: Any) -> BaseServiceTask:
    """The service task of a factory, of the kind that its context's request queue is of.

    Args:
        factory: Makes the service.
        ctx: Its context.
        **where: What a ``CeleryServiceTask`` or ``RayServiceTask`` needs besides.
    """
    if ctx.request_qd.kind == LocalServiceTask.kind:
        return LocalServiceTask(factory, ctx)
    if ctx.request_qd.kind == "ray":
        from dynamo_tasks.pipelines.ray.service_task import RayServiceTask

        return RayServiceTask(factory, ctx, **where)
    from dynamo_tasks.pipelines.celery.service_task import CeleryServiceTask

    return CeleryServiceTask(factory, ctx, **where)


class JobServices:
    """All services of one job in this process.

    Args:
        environment: Where they were registered.

    Attributes:
        job_id: ``<environment>-<8 hex digits>``.
    """

    def __init__(self, environment: BaseEnvironment):
        self._env_name = environment.name
        self.job_id = job_id = f"{environment.name}-{secrets.token_hex(4)}"
        self._settings = environment.config
        self._factories = dict(environment.service_factories)
        self._remote: Remote | None = None
        queues = {name: self.queue_of(name) for name in self._factories}
        queues |= self._endpoint_queues(environment.service_endpoints)
        self.manager = ServiceManager(queues, name=job_id, max_in_flight=self._settings.max_in_flight)
        self._proxies: list[ProxyManager] = []
        self.tasks: dict[str, BaseServiceTask] = {}

    def queue_of(self, name: str) -> QueueDescriptor:
        """Describe the request queue of a service."""
        return LocalQueueDescriptor(f"{self.job_id}.{name}.requests")

    def make_task(self, factory: ServiceFactory, ctx: ServiceContext) -> BaseServiceTask:
        """Make what runs a service."""
        return create_service_task(factory, ctx)

    def _endpoint_queues(self, endpoints: Mapping[str, ServiceEndpoint]) -> dict[str, QueueDescriptor]:
        """Services that other workers serve: the only ones here that need Redis."""
        if not endpoints:
            return {}
        from dynamo_tasks.pipelines.celery.queue import EndpointQueueDescriptor, Remote

        remote = self._remote = Remote.open(self._settings.redis_url)
        return {
            name: EndpointQueueDescriptor(name, remote, one.endpoint, one.streams)
            for name, one in endpoints.items()
        }

    def _common(self) -> dict[str, Any]:
        proxy = ProxyManager.of(self.manager, self._settings)
        self._proxies.append(proxy)
        return {"env_name": self._env_name, "job_id": self.job_id, "proxy": proxy}

    def task_context(self, name: str, index: int = 0, parallelism: int = 1) -> TaskContext:
        """The context of one task of an operator."""
        return TaskContext(name, task_index=index, parallelism=parallelism, **self._common())

    def start(self) -> None:
        """Make all instances, then start them; what a class's ``__init__`` or ``setup`` raises goes through."""
        try:
            for name, factory in self._factories.items():
                queue = self.manager.service_qds[name]
                ctx = ServiceContext(
                    name, request_qd=queue, parallelism=factory.parallelism, **self._common()
                )
                self.tasks[name] = self.make_task(factory, ctx)
            for task in self.tasks.values():
                task.start_running()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop all services, those that were started last first; a second call does nothing."""
        for task in reversed(list(self.tasks.values())):
            task.cleanup()
        self.manager.shutdown()
        for proxy in self._proxies:
            proxy.reset()
        remote, self._remote = self._remote, None
        if remote is not None:
            remote.close()

    def statistics(self) -> list[dict[str, Any]]:
        """Numbers of each service."""
        return [task.get_statistics() for task in self.tasks.values()]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
