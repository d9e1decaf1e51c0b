"""A service on Ray: an actor, that Ray starts again when it is lost."""

from __future__ import annotations

from typing import Any

from dynamo_tasks.errors import ConfigError, EndpointError, WorkerLostError
from dynamo_tasks.observe.log import event
from dynamo_tasks.pipelines.calls.base_service_task import BaseServiceTask
from dynamo_tasks.pipelines.calls.context import ServiceContext
from dynamo_tasks.pipelines.calls.factory import ServiceFactory
from dynamo_tasks.pipelines.calls.service_methods import refuse_method
from dynamo_tasks.pipelines.plans.plan import Plan
from dynamo_tasks.pipelines.ray.actors import ServiceActor
from dynamo_tasks.pipelines.ray.cluster import ActorWrapper
from dynamo_tasks.pipelines.ray.queue import Answer, encode_arguments

__all__ = ["RayServiceTask"]

_LOOK = 5.0
"""Seconds that numbers may take: a service that is just being started again has none."""


class RayServiceTask(BaseServiceTask):
    """Runs a service in an actor of its own; ``setup`` and ``close`` run there, too.

    A lost actor is started again, with a new instance, ``max_restarts`` times; what it was asked is asked again, but
    for generators. ``service`` is the :class:`ActorWrapper`.

    Args:
        factory: Makes the instance; its class must be importable on the cluster.
        ctx: Its context; the name of its queue becomes the actor's.
        plan: The job's services.
    """

    kind = "ray"

    def __init__(self, factory: ServiceFactory, ctx: ServiceContext, *, plan: Plan):
        self._plan = plan
        self._last: dict[str, Any] = {}
        super().__init__(factory, ctx)

    def make_service(self) -> ActorWrapper:
        """Start the actor; it is made while others are."""
        settings = self._plan.settings
        return ActorWrapper.start(
            ServiceActor, self._plan.encode(), self.name, name=self.ctx.request_qd.name,
            max_restarts=settings.max_restarts, concurrency=settings.max_in_flight + 64,
        )  # fmt: skip

    def _run_hook(self, name: str) -> None:
        """The actor runs them."""

    def _start(self) -> None:
        failure = self.service.ready()
        if failure is not None:
            raise ConfigError(failure)

    def _stop(self, *, drain: bool) -> None:
        try:
            self._last = self.service.stop(drain)
        except WorkerLostError as exc:
            event("job.hook_failed", job=self.ctx.job_id, name=self.name, error=exc)

    def cleanup(self) -> None:
        """See :meth:`BaseServiceTask.cleanup`; the actor is gone then."""
        super().cleanup()
        self.service.kill()

    def call_method(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """See :meth:`BaseServiceTask.call_method`; what the method raises comes as an :class:`EndpointError`."""
        if method not in self.methods:
            refuse_method(self.name, method, self.methods)
        within = self._plan.settings.timeout
        answer = Answer.decode(self.service.call("call", method, within, encode_arguments(args, kwargs)))
        if answer.error is not None:
            raise EndpointError(answer.error)
        return answer.result

    def get_statistics(self) -> dict[str, Any]:
        """See :meth:`BaseServiceTask.get_statistics`: the actor's numbers, since its last start."""
        if self.is_running:
            self._last = self._look("statistics") or self._last
        return {**super().get_statistics(), **self._last, "kind": self.kind, "running": self.is_running}

    def export_metrics(self) -> str:
        """See :meth:`BaseServiceTask.export_metrics`; empty once it has stopped."""
        return (self._look("metrics") or "") if self.is_running else ""

    @property
    def queued(self) -> int:
        """Calls that wait in the actor."""
        return int(self._last.get("queued", 0))

    def _look(self, what: str) -> Any:
        try:
            return self.service.call(what, timeout=_LOOK)
        except (WorkerLostError, TimeoutError):
            return None
