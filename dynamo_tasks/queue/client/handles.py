"""Classes of ``app.AsyncResult`` and ``app.GroupResult`` in an application that has endpoints.

An id alone does not show whether it is a request's: ``app.AsyncResult(id)``, ``send_task``, restored groups and
children are :class:`~dynamo_tasks.queue.client.result.StreamResult`, which asks Celery's backend first. A result of a
plain task, which comes with the task's name, is Celery's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery.backends.base import DisabledBackend
from celery.exceptions import ImproperlyConfigured
from celery.result import AsyncResult, GroupResult

from dynamo_tasks.errors import DynamoError
from dynamo_tasks.queue.broker.outages import raise_known_error
from dynamo_tasks.queue.client import raised
from dynamo_tasks.queue.client.result import StreamResult
from dynamo_tasks.queue.client.task import EndpointTask

__all__ = ["Handles"]


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
