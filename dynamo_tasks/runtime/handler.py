"""A declared endpoint of a live service instance, as the queue runs it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.queue.handlers import Aggregate, ListAggregate
from dynamo_tasks.queue.retry import RetryPolicy
from dynamo_tasks.sdk import DynamoEndpoint
from dynamo_tasks.sdk.calls import open_values
from dynamo_tasks.sdk.context import current_context

__all__ = ["EndpointHandler"]


class EndpointHandler:
    """What runs when a message for the endpoint arrives.

    Args:
        declared: The endpoint.
        instance: The service that has it.
    """

    def __init__(self, declared: DynamoEndpoint, instance: object):
        self.endpoint: EndpointId = declared.id
        self.streaming = declared.is_stream
        self.policy: str = declared.policy
        self.retry = RetryPolicy(declared.options)
        self._declared = declared
        self._instance = instance

    def aggregate(self) -> Aggregate:
        """A fresh aggregate for one request."""
        made: Aggregate = self._declared.aggregate() if self._declared.aggregate else ListAggregate()
        return made

    def run(self, payload: Any, logged: list[Any]) -> AsyncIterator[Any]:
        """Serve a request; ``logged`` is what an earlier attempt has written of a continued one."""
        context = current_context()
        if context is not None:
            context.logged = logged
        return open_values(self._declared, self._instance, payload)
