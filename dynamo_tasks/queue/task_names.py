"""Endpoints of an application by name: they are in ``app.tasks`` before the first call of them.

An endpoint's name follows from its service's settings, and a service may be declared or configured at any time. So
each look into ``app.tasks`` first registers what was declared since.

Of what this process knows nothing of, the registry says where it is. ``app.send_task("shop.Teller.greet")`` in a
program that has none of the services would go to the default queue, as any name that Celery does not know, and no
worker of that component reads that one. A plain task's name may look the same (``shop.tasks.mail``); so only what is
registered counts, and is looked up at most once in a while.

An id alone does not show whether it is a request's: ``app.AsyncResult(id)``, ``send_task``, restored groups and
children are :class:`~dynamo_tasks.queue.client.result.StreamResult`, which asks Celery's backend first. A result of a
plain task, which comes with the task's name, is Celery's own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from celery import Celery
from celery.app import routes
from celery.app.amqp import AMQP as CeleryAMQP  # noqa: N811
from celery.backends.base import DisabledBackend
from celery.exceptions import ImproperlyConfigured
from celery.result import AsyncResult, GroupResult
from kombu.exceptions import OperationalError

from dynamo_tasks.errors import DynamoError, InvalidNameError
from dynamo_tasks.observe.log import event
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.queue.broker.outages import raise_known_error
from dynamo_tasks.queue.broker.transport import Channel
from dynamo_tasks.queue.client import raised
from dynamo_tasks.queue.client.result import StreamResult
from dynamo_tasks.queue.client.task import EndpointTask

__all__ = ["Handles", "NamedApp", "Registered", "Routes"]

_KNOWN_FOR, _UNKNOWN_FOR = 60.0, 5.0
"""Seconds for which an answer holds."""
_MOST = 1000
"""Names whose answers are kept."""


class Registered:
    """Names of endpoints that live instances of other processes serve.

    Args:
        app: The application, whose broker has the registry.
    """

    def __init__(self, app: Any):
        self._app = app
        self._answers: dict[str, tuple[float, EndpointId | None]] = {}

    def find(self, name: str) -> EndpointId | None:
        """The endpoint of that name; ``None`` for any other task, and where nobody can be asked."""
        until, found = self._answers.get(name, (0.0, None))
        if time.monotonic() < until:
            return found
        try:
            endpoint = EndpointId.parse(name)
        except InvalidNameError:
            return None
        found = endpoint if self._is_served(endpoint) else None
        # Anybody may send any name: what is remembered of them is bounded.
        if len(self._answers) >= _MOST:
            self._answers.clear()
        self._answers[name] = (time.monotonic() + (_KNOWN_FOR if found else _UNKNOWN_FOR), found)
        return found

    def _is_served(self, endpoint: EndpointId) -> bool:
        with self._app.producer_pool.acquire(block=True) as producer:
            connection = producer.connection
            if not isinstance(producer.channel, Channel):
                return False
            try:
                served = producer.channel.own_ledger.served(endpoint.namespace)
            except (DynamoError, OperationalError, *connection.connection_errors, *connection.channel_errors):
                return False  # what follows says so
        if served is None or (endpoint.component, endpoint.name) in served:
            return served is not None
        event("queue.name_unknown", endpoint=str(endpoint), queue=self._app.conf.task_default_queue)
        return False


class PlainResult(AsyncResult):  # type: ignore[misc]
    """Of a plain task; a chain's waits for a server that restarts, as all others do."""

    def _maybe_reraise_parent_error(self) -> None:
        for node in reversed(list(self._parents())):
            raise_known_error(node)


class AnyResult(StreamResult):
    """A result by its id alone."""

    def __new__(
        cls, id: str, backend: Any = None, task_name: str | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Celery's own kind for a plain task."""
        app: Any = cls.app
        if task_name is None or isinstance(app.tasks.get(task_name), EndpointTask):
            return super().__new__(cls)
        return app.handles.plain(id, backend, task_name, *args, **kwargs)

    def __init__(self, id: str, backend: Any = None, *args: Any, **kwargs: Any):
        super().__init__(id, backend or _backend_of(self.app), *args, **kwargs)


class AnyGroup(GroupResult):  # type: ignore[misc]
    """A group of which some may be endpoints."""

    def join(self, *args: Any, **kwargs: Any) -> Any:
        """As ``GroupResult.join``; raises what the results of its members raise."""
        return self._joined(super().join, *args, **kwargs)

    def join_native(self, *args: Any, **kwargs: Any) -> Any:
        """As ``GroupResult.join_native``; the same."""
        return self._joined(super().join_native, *args, **kwargs)

    def _joined(self, join: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            values = join(*args, **kwargs)
        except Exception as exc:
            if not any(cache and cache["result"] is exc for cache in map(_cache_of, self.results)):
                raise
            made = raised.both(exc)
            raise made from exc.__cause__
        return values and [raised.both(one) if isinstance(one, Exception) else one for one in values]

    def revoke(self, *args: Any, **kwargs: Any) -> None:
        """As ``GroupResult.revoke``; requests end in the ledger at once, with or without a worker that listens."""
        for result in self.results:
            if isinstance(result, StreamResult | AnyGroup):
                result.revoke(*args, **kwargs)
        super().revoke(*args, **kwargs)


def _cache_of(result: Any) -> Any:
    return getattr(result, "_cache", None) if isinstance(result, StreamResult) else None


def _backend_of(app: Any) -> Any:
    """Return the backend for an id of unknown kind: that of endpoints, or none where it cannot be made.

    An application that keeps no results of plain tasks may have those of endpoints.
    """
    try:
        return app.endpoint_backend
    except (DynamoError, ImproperlyConfigured):
        return DisabledBackend(app=app)


class Handles:
    """The classes of one application.

    Attributes:
        result: ``app.AsyncResult``.
        group: ``app.GroupResult``.
        plain: What the former makes of a plain task's.
    """

    def __init__(self, app: Any):
        self.result: Any = app.subclass_with_self(AnyResult, name="AsyncResult", reverse="AsyncResult")
        self.group: Any = app.subclass_with_self(AnyGroup, name="GroupResult", reverse="GroupResult")
        self.plain: Any = app.subclass_with_self(PlainResult, name="AsyncResult", reverse="AsyncResult")


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
