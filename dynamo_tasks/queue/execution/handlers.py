"""The table between the queue and the services: the code that runs when a message for an endpoint arrives."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.queue.execution.retry import RetryPolicy
from dynamo_tasks.sdk.endpoints.payloads import Aggregate

__all__ = ["Handler"]


class Handler(Protocol):
    """One endpoint of the service that this process hosts; the service host fills the table."""

    endpoint: EndpointId
    streaming: bool
    """``True`` for a generator; else it yields exactly one value, its return value."""
    policy: str
    """The way to go on after an earlier attempt's output: continue, replay, restart or fail."""

    retry: RetryPolicy
    """The errors after which Celery runs it again, and the backoff."""

    def run(self, payload: Any, logged: list[Any]) -> AsyncIterator[Any]:
        """Serve a request.

        Args:
            payload: The one argument, as it came.
            logged: Values that an earlier attempt has logged; only with policy ``continue``.
        """

    def aggregate(self) -> Aggregate:
        """A fresh aggregate for one request."""
