"""An endpoint as a process serves it: what it runs, and what the registry shows of it."""

from __future__ import annotations

import inspect
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dynamo_tasks.protocol.instances import InstanceInfo, ModelCard
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.queue.execution.telemetry import meters_of
from dynamo_tasks.runtime.components.endpoint_config import EndpointConfig, PlainEndpoint
from dynamo_tasks.runtime.components.registry import StatsHandler
from dynamo_tasks.sdk import DynamoEndpoint
from dynamo_tasks.sdk.endpoints.handler import EndpointHandler
from dynamo_tasks.sdk.hooks import Hook

__all__ = ["HostedEndpoint"]


@dataclass(eq=False)
class HostedEndpoint:
    """An endpoint, and what its process adds to it.

    Attributes:
        declared: The endpoint.
        service: The live object that has it as a method; ``None`` for a function.
        config: The function's configuration.
        own_queue: Whether this instance can be called by name, by a queue of its own.
        stats: Add to what is gathered of it.
        limits: Of its component as a whole.
        model: For a frontend to find.
        facts: More fields of its registration.
    """

    declared: DynamoEndpoint
    service: object = None
    config: EndpointConfig | None = None
    own_queue: bool = True
    stats: Sequence[StatsHandler] = ()
    limits: Mapping[str, int | None] | None = None
    model: ModelCard | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.id: EndpointId = self.declared.id
        self.handler = EndpointHandler(self.declared, self.service)
        self.stats = [meters_of(self.id).stats, *self.stats]
        self._started = time.time()

    @classmethod
    def plain(cls, endpoint: EndpointId, config: EndpointConfig, *, own_queue: bool = True) -> HostedEndpoint:
        """An endpoint that plain code serves.

        Raises:
            ConfigError: its handler is no function.
        """
        own = () if config.stats_handler is None else (config.stats_handler,)
        declared = PlainEndpoint(endpoint, config)
        return cls(declared, config=config, own_queue=own_queue, stats=own, model=config.model)

    def queues(self, lease: int) -> list[str]:
        """Queues that bring its calls; by the last one this instance is called."""
        return [self.id.queue, self.id.instance_queue(lease)] if self.own_queue else [self.id.queue]

    def info(self, lease: int, capacity: int) -> InstanceInfo:
        """Its registration."""
        return InstanceInfo(
            endpoint=self.id.name, component=self.id.component, namespace=self.id.namespace, lease_id=lease,
            transport={"celery": self.queues(lease)[-1]}, host=socket.gethostname(), pid=os.getpid(),
            started=self._started, streaming=self.declared.is_stream, capacity=capacity, model=self.model,
            **self.facts,
        )  # fmt: skip

    async def probe(self, hook: Hook) -> bool:
        """Ask its own probe, if it has one."""
        probe = None
        if self.config is not None:
            probe = self.config.liveness if hook == "liveness" else self.config.readiness
        answer = probe() if probe is not None else None
        found: bool | None = await answer if inspect.isawaitable(answer) else answer
        return found is None or bool(found)
