"""The means of all runs of batches in a process, and their patience while Redis or the storage is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import msgspec

from dynamo_tasks.errors import StorageUnavailableError
from dynamo_tasks.files.library import Files
from dynamo_tasks.frontend.batches.records import BATCH, BatchData, BatchRecord
from dynamo_tasks.frontend.generation import Generation
from dynamo_tasks.frontend.openai.apis import Api
from dynamo_tasks.protocol.http.limits import KeyLimits
from dynamo_tasks.services.batches.line_queue import LineQueue
from dynamo_tasks.services.batches.validation import BatchLimits
from dynamo_tasks.services.gateway import RuntimeGateway
from dynamo_tasks.store.client import StoreClient
from dynamo_tasks.store.objects import ANYBODY, Objects
from dynamo_tasks.store.redis.retry import retry_until_up

__all__ = ["BatchShop"]

T = TypeVar("T")
_STORAGE_PATIENCE = 600.0
_STORAGE_RETRY = 2.0


class BatchShop:
    """The means that runs of batches share.

    Args:
        client: Redis.
        files: Inputs and outputs.
        gateway: The way to the queue.
        generation: The one way in.
        apis: That lines can be for, by path.
        limits: What a batch may have.
        limits_of: What the API key of an owner may.
    """

    def __init__(
        self,
        client: StoreClient,
        files: Files,
        gateway: RuntimeGateway,
        generation: Generation,
        apis: Mapping[str, Api],
        limits: BatchLimits,
        limits_of: Callable[[str], Awaitable[KeyLimits]],
    ):
        self.client = client
        self.objects: Objects = gateway.objects
        self.files = files
        self.gateway = gateway
        self.generation = generation
        self.apis = apis
        self.limits = limits
        self._limits_of = limits_of
        self.runs = 0
        """Runs that have lines in flight now: they share :attr:`BatchLimits.in_flight`."""

    def queue(self, batch: BatchRecord) -> LineQueue:
        """The lines of a batch in the queue."""
        api = self.apis[batch.data.request["endpoint"]]
        return LineQueue(self.client, self.gateway, self.generation, api, batch.owner, self._limits_of)

    @property
    def share(self) -> int:
        """Lines that one run may have in flight."""
        return max(4, self.limits.in_flight // max(1, self.runs))

    async def ask(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask Redis until it answers; what is asked must be safe to repeat."""
        return await retry_until_up(self.client.store.commands, ask)

    async def stored(self, act: Callable[[], Awaitable[T]]) -> T:
        """Use the storage; one that is away is waited for, for ten minutes."""
        until = time.monotonic() + _STORAGE_PATIENCE
        while True:
            try:
                return await act()
            except StorageUnavailableError:
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(_STORAGE_RETRY)

    async def get(self, batch_id: str) -> BatchRecord:
        """A batch as it is now."""
        return await self.ask(lambda: self.objects.get(BATCH, batch_id, ANYBODY))

    async def change(self, batch_id: str, change: Callable[[BatchData], BatchData | None]) -> BatchRecord:
        """Change a batch; ``change`` may be called again, and says ``None`` where there is nothing to do any more."""
        return await self.ask(lambda: self.objects.change(BATCH, batch_id, ANYBODY, change))

    async def advance(
        self, batch_id: str, status: str, *, of: tuple[str, ...], **more: object
    ) -> BatchRecord:
        """Bring a batch that has one of some statuses to another one, with its time."""

        def advanced(data: BatchData) -> BatchData | None:
            if data.status not in of:
                return None
            times = {**data.times, f"{status}_at": int(time.time())}
            return msgspec.structs.replace(data, status=status, times=times, **more)

        return await self.change(batch_id, advanced)
