"""Contexts: the view that an operator or a service has of its job."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from dynamo_tasks.pipelines.calls.proxy import ProxyManager, Services
from dynamo_tasks.pipelines.calls.queues import QueueDescriptor

__all__ = ["BaseRuntimeContext", "Calls", "ServiceContext", "TaskContext"]


class BaseRuntimeContext:
    """Common part of both contexts.

    Attributes:
        name: Of the operator or service.
        env_name: Of the environment.
        job_id: Of the job.
        proxy: Calls of services.
        logger: ``dynamo_tasks.job.<name>``.
    """

    def __init__(self, name: str, *, env_name: str, job_id: str, proxy: ProxyManager):
        self.name = name
        self.env_name = env_name
        self.job_id = job_id
        self.proxy = proxy
        self.logger = logging.getLogger(f"dynamo_tasks.job.{name}")

    @property
    def service_qds(self) -> Mapping[str, QueueDescriptor]:
        """Request queues of the job's services."""
        return self.proxy.manager.service_qds

    @property
    def response_qd(self) -> QueueDescriptor:
        """The queue at which responses to its calls arrive."""
        return self.proxy.manager.response_qd

    def call_service(self, name: str, *args: Any, **options: Any) -> Any:
        """Call a service; see :meth:`Calls.call_service`."""
        return self.proxy.call_sync(name, *args, **options)

    def call_service_async(self, name: str, *args: Any, **options: Any) -> Future[Any]:
        """Call a service without waiting; see :meth:`Calls.call_service_async`."""
        return self.proxy.call_async(name, *args, **options)

    @property
    def services(self) -> Services:
        """Services as attributes."""
        return self.proxy.services


class ServiceContext(BaseRuntimeContext):
    """Context of a service.

    Attributes:
        request_qd: The queue that it is called through.
        parallelism: How many calls may run at once.
    """

    def __init__(self, name: str, *, request_qd: QueueDescriptor, parallelism: int = 1, **common: Any):
        super().__init__(name, **common)
        self.request_qd = request_qd
        self.parallelism = parallelism


class TaskContext(BaseRuntimeContext):
    """Context of one task of an operator.

    Attributes:
        task_index: Which of the operator's parallel tasks, from 0.
        parallelism: How many there are.
        record_id: Names the record in hand; the same when it is handled again after a failure, so that a sink can
            distinguish a repeated write from a new one.
    """

    def __init__(self, name: str, *, task_index: int = 0, parallelism: int = 1, **common: Any):
        super().__init__(name, **common)
        self.task_index = task_index
        self.parallelism = parallelism
        self.record_id = ""


class Calls:
    """Calls of services, for functions and services that derive from it.

    Attributes:
        ctx: The context; there before ``__init__`` runs.
    """

    ctx: BaseRuntimeContext

    def call_service(
        self, name: str, *args: Any, timeout: float | None = None, method: str | None = None, **options: Any
    ) -> Any:
        """Call a service and wait.

        Args:
            name: Of the service.
            *args: Of the method.
            timeout: Seconds, 10 by default; all retries lie within it.
            method: ``process`` by default.
            **options: ``retries`` (0), ``retry_on`` (exception types, or their names; any by default); the rest
                are the method's keyword arguments.

        Returns:
            What the method returned; for a generator an iterator over its values, which arrive as they are made.

        Raises:
            UnknownServiceError: no such service; lists those that there are.
            ServiceTimeoutError: no answer in time (a ``TimeoutError``).
            ServiceCallError: the method raised (a ``RuntimeError``); its error is the cause.
        """
        return self.ctx.call_service(name, *args, timeout=timeout, method=method, **options)

    def call_service_async(
        self, name: str, *args: Any, timeout: float | None = None, method: str | None = None, **options: Any
    ) -> Future[Any]:
        """Call a service without waiting; 30 s by default. The errors come out of the future."""
        return self.ctx.call_service_async(name, *args, timeout=timeout, method=method, **options)

    @property
    def services(self) -> Services:
        """Services as attributes: ``self.services.profile.lookup(x)``."""
        return self.ctx.services
