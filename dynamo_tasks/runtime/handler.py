"""A declared endpoint of a live service instance, as the queue runs it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.queue.execution.retry import RetryPolicy
from dynamo_tasks.sdk import DynamoEndpoint
from dynamo_tasks.sdk.context import current_context
from dynamo_tasks.sdk.endpoints.declared import open_values
from dynamo_tasks.sdk.endpoints.payloads import Aggregate, new_aggregate

__all__ = ["EndpointHandler"]


class EndpointHandler:
    """The handler that runs when a message for the endpoint arrives.

    Args:
        declared: The endpoint.
        instance: The service that has it.

    Attributes:
        canary: Payload of a request that shows whether it works; ``None`` = it is not checked.
        used_at: Monotonic time of the last request.
    """

    def __init__(self, declared: DynamoEndpoint, instance: object):
        self.endpoint: EndpointId = declared.id
        self.streaming = declared.is_stream
        self.policy: str = declared.policy
        self.retry = RetryPolicy(declared.options)
        self.canary = declared.health_check_payload
        self.used_at = time.monotonic()
        self._declared = declared
        self._instance = instance

    def aggregate(self) -> Aggregate:
        """A fresh aggregate for one request."""
        return new_aggregate(self._declared)

    def run(self, payload: Any, logged: list[Any]) -> AsyncIterator[Any]:
        """Serve a request; ``logged`` is what an earlier attempt has written of a continued one."""
        self.used_at = time.monotonic()
        context = current_context()
        if context is not None:
            context.logged = logged
        return open_values(self._declared, self._instance, payload)
