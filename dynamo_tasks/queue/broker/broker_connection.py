"""Broker connections of ours, and how long what is done on them may take."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

from kombu import Connection as KombuConnection
from kombu.connection import ConnectionPool, PooledConnection
from kombu.utils.collections import HashedSeq

from dynamo_tasks.queue.broker.backend import OPERATION_TIMEOUT
from dynamo_tasks.queue.broker.hub import AsyncioHub
from dynamo_tasks.queue.broker.transport import SentinelTransport, Transport

__all__ = ["BrokerConnection", "limits"]

_TRANSPORTS = {"redis": Transport, "rediss": Transport, "sentinel": SentinelTransport}
_until: ContextVar[float | None] = ContextVar("dynamo_until", default=None)
"""Deadline of the operation that is being retried in this context, in monotonic seconds."""


class BrokerConnection(KombuConnection):  # type: ignore[misc]
    """A broker connection whose Redis transport is ours; its URLs stay plain ``redis://``."""

    requires_hub = AsyncioHub
    lanes: Any = None
    """The application's :class:`~dynamo_tasks.queue.client.lanes.LanePublisher`, where it has several lanes."""

    def __eqhash__(self) -> Any:
        """kombu callback: what its pools are kept by; one of ours is never shared with an application that has none."""
        return HashedSeq(super().__eqhash__(), "dynamo-tasks", id(self.lanes))

    def clone(self, **kwargs: Any) -> Any:
        """kombu's."""
        made = super().clone(**kwargs)
        made.lanes = self.lanes
        return made

    def get_transport_cls(self) -> Any:
        """kombu callback."""
        if self.transport_cls in _TRANSPORTS:
            return _TRANSPORTS[self.transport_cls]
        return super().get_transport_cls()

    def Pool(self, limit: int | None = None, **kwargs: Any) -> ConnectionPool:  # noqa: N802 - kombu's name
        """A pool whose connections are of this kind, too; kombu's own makes plain ones."""
        return _Pool(self, limit, **kwargs)

    def ensure(self, obj: Any, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """kombu's, which counts retries only: each may take as long as Redis keeps silent."""
        ensured = super().ensure(obj, fun, *args, **kwargs)

        def within(*args: Any, **kwargs: Any) -> Any:
            token = _until.set(time.monotonic() + OPERATION_TIMEOUT)
            try:
                return ensured(*args, **kwargs)
            finally:
                _until.reset(token)

        return within

    def _ensure_connection(self, *args: Any, timeout: float | None = None, **kwargs: Any) -> Any:
        until, failure = _until.get(), sys.exception()
        if until is not None:
            left = until - time.monotonic()
            if left <= 0 and failure is not None:
                raise failure
            timeout = max(left, 0.01)
        return super()._ensure_connection(*args, timeout=timeout, **kwargs)


class _Pooled(PooledConnection, BrokerConnection):  # type: ignore[misc]
    """One of a pool."""


class _Pool(ConnectionPool):  # type: ignore[misc]
    def new(self) -> _Pooled:
        """kombu callback."""
        made = _Pooled(self, **dict(self.connection._info(resolve=False)))
        made.lanes = self.connection.lanes
        return made


def limits(options: Mapping[str, Any], seconds: float, *, sentinels: bool) -> dict[str, Any]:
    """Transport options by which no answer is waited for longer.

    Args:
        options: The application's own, which count where they say it.
        seconds: Of one answer.
        sentinels: Whether Sentinels are asked first.
    """
    wanted = {"socket_timeout": seconds, "socket_connect_timeout": seconds}
    made: dict[str, Any] = {name: value for name, value in wanted.items() if options.get(name) is None}
    if sentinels:
        made["sentinel_kwargs"] = {**wanted, **(options.get("sentinel_kwargs") or {})}
    return made
