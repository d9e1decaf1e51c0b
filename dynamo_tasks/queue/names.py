"""Endpoints of an application by name: they are in ``app.tasks`` before the first call of them.

An endpoint's name follows from its service's settings, and a service may be declared or configured at any time. So
each look into ``app.tasks`` first registers what was declared since.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from celery import Celery
from celery.app import routes
from celery.app.amqp import AMQP as CeleryAMQP  # noqa: N811

from dynamo_tasks.queue.client.handles import Handles
from dynamo_tasks.queue.client.registered import Registered
from dynamo_tasks.queue.client.task import EndpointTask

__all__ = ["NamedApp", "Routes"]

_lock = threading.RLock()


class Routes(CeleryAMQP):  # type: ignore[misc]
    """Sends calls of endpoints to the queues of their components, before the application's own routes."""

    def flush_routes(self) -> None:
        """Celery callback: the application's own routes follow ours, which knows endpoints only."""
        self._rtable = [self._route, *routes.prepare(self.app.conf.task_routes)]

    def _route(
        self, name: str, args: Any, kwargs: Any, options: Mapping[str, Any], task: Any = None, **_: Any
    ) -> dict[str, Any] | None:
        if options.get("queue") or options.get("routing_key"):
            return None
        known = self.app.endpoint_task(name)
        if known is not None:
            return {"queue": self.app.queue_for(known.endpoint), "serializer": known.serializer}
        elsewhere = None if name in self.app._tasks else self.app.registered.find(name)
        return None if elsewhere is None else {"queue": self.app.queue_for(elsewhere), "serializer": "json"}


class NamedApp(Celery):  # type: ignore[misc]
    """An application that has endpoints among its tasks.

    Attributes:
        learn: Registers what was declared or configured since; called again and again.
    """

    learn: Callable[[Any], None] = staticmethod(lambda app: None)
    _learning = False

    @property
    def tasks(self) -> Any:
        """The task registry, endpoints among them."""
        self.finalize(auto=True)
        self._learn()
        return self._tasks

    def _learn(self) -> None:
        with _lock:
            if self._learning:  # what is registered asks for what is known
                return
            self._learning = True
            try:
                self.learn(self)
            finally:
                self._learning = False

    def endpoint_task(self, name: str) -> EndpointTask | None:
        """The task of an endpoint; ``None`` for all other names."""
        self._learn()
        found = self._tasks.get(name)
        return found if isinstance(found, EndpointTask) else None

    @cached_property
    def registered(self) -> Registered:
        """The endpoints that other processes serve, as their registrations name them."""
        return Registered(self)

    @cached_property
    def handles(self) -> Handles:
        """The classes of results."""
        return Handles(self)

    @property
    def AsyncResult(self) -> Any:  # noqa: N802 - Celery's name
        """The class of results; of an id that may be a request's, one that streams."""
        return self.handles.result

    @property
    def GroupResult(self) -> Any:  # noqa: N802 - Celery's name
        """The class of results of groups."""
        return self.handles.group

    def send_task(
        self, name: str, args: Any = None, kwargs: Any = None, countdown: Any = None, eta: Any = None,
        task_id: Any = None, *more: Any, **options: Any,
    ) -> Any:  # fmt: skip
        """As Celery's; a call of an endpoint by its name is the same as one by its task."""
        given = {"countdown": countdown, "eta": eta, "task_id": task_id}
        known = None
        if not more and options.get("task_type") is None and not self.conf.task_always_eager:
            known = self.endpoint_task(name)
        if known is None:
            return super().send_task(name, args, kwargs, countdown, eta, task_id, *more, **options)
        options.pop("result_cls", None)
        return known.apply_async(args, kwargs, **{k: v for k, v in given.items() if v is not None}, **options)

    @property
    def sends_as_celery(self) -> bool:
        """``True`` if nobody has overridden or wrapped ``send_task``."""
        ours, celerys = (
            getattr(self.send_task, "__func__", None),
            getattr(super().send_task, "__func__", None),
        )
        return ours is NamedApp.send_task and celerys is Celery.send_task
