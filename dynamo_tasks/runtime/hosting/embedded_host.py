"""Endpoints that plain code serves: a function, an event loop, no service class.

The first one starts a worker in the program's own event loop; it ends with the runtime.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from dynamo_tasks.errors import InstanceDeadError, UnavailableError
from dynamo_tasks.protocol.instances import InstanceInfo
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.queue.app import create_app
from dynamo_tasks.queue.worker.embedded import EmbeddedWorker
from dynamo_tasks.runtime.components.endpoint_config import EndpointConfig
from dynamo_tasks.runtime.hosting.endpoint import HostedEndpoint
from dynamo_tasks.runtime.hosting.instance_host import InstanceHost
from dynamo_tasks.runtime.hosting.lifecycle import InstanceState
from dynamo_tasks.store.registry import new_lease

if TYPE_CHECKING:
    from dynamo_tasks.runtime.components.component import DistributedRuntime

__all__ = ["EmbeddedHost"]

CAPACITY = 256
_ENDING = (InstanceState.STOPPING, InstanceState.DEREGISTERED)


class EmbeddedHost:
    """All endpoints that plain code serves in this process.

    Args:
        runtime: Connections of the process.

    Attributes:
        host: Serves them.
    """

    def __init__(self, runtime: DistributedRuntime):
        store = runtime.client.store
        self._app = create_app(
            "dynamo_tasks_serving",
            server_url=runtime.client.url,
            make_host=lambda *_, **__: self.host,
            key_prefix=store.prefix,
        )
        self.host = InstanceHost(
            self._app, runtime, new_lease(), slots=CAPACITY, health=runtime.health, on_dead=self._die
        )
        self._worker: EmbeddedWorker | None = None
        self._adding = asyncio.Lock()
        self._ended = asyncio.Event()
        self._died_of = ""
        self._dying: asyncio.Task[None] | None = None

    def config(self, endpoint: EndpointId) -> EndpointConfig | None:
        """The configuration by which an endpoint is served; ``None`` where it is not."""
        found = self.host.hosted.get(endpoint)
        return None if found is None else found.config

    async def add(self, endpoint: EndpointId, config: EndpointConfig) -> InstanceInfo:
        """Serve one more endpoint; see :meth:`EndpointConfigBuilder.start`."""
        added = HostedEndpoint.plain(endpoint, config)
        async with self._adding:
            if self._ended.is_set() or self.host.lifecycle.state in _ENDING:
                raise UnavailableError("this runtime has ended, and serves no more")
            await (self._begin(added) if self._worker is None else self.host.add(added))
        return added.info(self.host.lease, self.host.capacity)

    async def _begin(self, first: HostedEndpoint) -> None:
        """Start the worker, which registers the endpoint once it takes messages."""
        self.host.prepare(first)
        try:
            self._app.worker_context = await self.host.connect()
            self._worker = EmbeddedWorker(self._app, self.host)
            await self._worker.begin()
        except BaseException:
            self.host.forget([first])  # so that its start can be tried again
            raise

    def _die(self, reason: str) -> None:
        """Requeue what runs, and end serving; :meth:`wait_closed` reports it to the program."""
        self._died_of = reason
        self._dying = asyncio.create_task(self.close(requeue=True), name="dying")

    async def close(self, *, requeue: bool = False) -> None:
        """Take no more requests, finish what runs, leave; idempotent.

        Args:
            requeue: What runs goes to other instances instead.
        """
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.end(requeue=requeue)
            self._app.close()
        self._ended.set()

    async def wait_closed(self) -> None:
        """Wait until the runtime is closed.

        Raises:
            InstanceDeadError: a liveness probe said no.
        """
        await self._ended.wait()
        if self._died_of:
            raise InstanceDeadError(f"this process serves no more: {self._died_of}")
