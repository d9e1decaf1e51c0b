"""Care for batches that have not ended: a run that ended without having ended its batch is followed by another."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import msgspec

from dynamo_tasks.errors import (
    DynamoError,
    InvalidRequestError,
    ObjectConflictError,
    ObjectNotFoundError,
    RequestNotFoundError,
)
from dynamo_tasks.frontend.batches.api import submit_run
from dynamo_tasks.frontend.batches.records import (
    ENDED,
    ENDED_BATCH,
    KEPT,
    OPEN_BATCH,
    SYSTEM,
    BatchData,
    BatchRecord,
    OpenBatch,
    run_id,
)
from dynamo_tasks.observe.log import event
from dynamo_tasks.protocol.http.batches import LineError
from dynamo_tasks.protocol.jitter import jittered
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.protocol.states import TERMINAL
from dynamo_tasks.runtime.supervision.actor import Actor
from dynamo_tasks.services.batches.shop import BatchShop
from dynamo_tasks.services.webhooks.announcer import Announcer
from dynamo_tasks.store.objects import StoredObject
from dynamo_tasks.store.redis.containment import contained

__all__ = ["BatchSupervisor"]

_EVERY = 5.0
_MOST_RUNS = 20
_UNBORN = 60.0
"""Seconds within which a batch follows its entry among the open ones."""


class BatchSupervisor(Actor):
    """Looks after all batches of a namespace; any number of them side by side do no harm.

    Args:
        shop: What runs work with.
        runner: The endpoint that is a run.
        announcer: Tells about ends.
    """

    name = "batch-supervisor"

    def __init__(self, shop: BatchShop, runner: EndpointId, announcer: Announcer):
        self._shop = shop
        self._announcer = announcer
        self._runner = runner

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(jittered(_EVERY, 0.8, 1.2))
            try:
                await self.look()
            except DynamoError as exc:
                event("batch.supervision_failed", error=exc.message)

    async def look(self) -> None:
        """Look after each of them once."""
        after, more = "", True
        while more:
            page = await self._shop.objects.page(OPEN_BATCH, SYSTEM, order="asc", after=after, limit=100)
            for entry in page.objects:
                with contained("objects", f"batch {entry.id}"):
                    await self._look_at(entry)
                after = entry.id
            more = page.more and bool(page.objects)

    async def _look_at(self, entry: StoredObject[OpenBatch]) -> None:
        try:
            await self.look_after(entry.id)
        except ObjectNotFoundError:
            if time.time() - entry.created > _UNBORN:
                await self._close(entry.id)

    async def look_after(self, batch_id: str) -> None:
        """See that a batch is run, or, once it has ended, that this is told.

        Raises:
            ObjectNotFoundError: Nobody knows it.
        """
        batch = await self._shop.get(batch_id)
        if batch.data.status in ENDED:
            # Closed last: if this process dies before that, another one does all of it again.
            await self._announcer.batch_ended(batch)
            await self._enter(batch)
            await self._close(batch_id)
        elif await self._over(batch):
            await self._again(batch)

    async def _enter(self, batch: BatchRecord) -> None:
        """Enter it among those that have ended, for as long as it is known."""
        left = KEPT if batch.ends is None else max(1.0, batch.ends - time.time())
        # It stands there already; or there are as many as may be: it is not shown then, and known all the same.
        with suppress(ObjectConflictError, InvalidRequestError):
            await self._shop.objects.create(ENDED_BATCH, batch.id, SYSTEM, OpenBatch(), ttl=left)

    async def _close(self, batch_id: str) -> None:
        with suppress(ObjectNotFoundError):
            await self._shop.objects.delete(OPEN_BATCH, batch_id, SYSTEM)

    async def _over(self, batch: BatchRecord) -> bool:
        """Return whether its run has ended. One that was never queued is queued."""
        try:
            record = await self._shop.client.ledger.get(
                run_id(batch.id, batch.data.run), self._runner.namespace
            )
        except RequestNotFoundError:
            await submit_run(self._shop.gateway, self._runner, batch.id, batch.data.run)
            return False
        return record.state in TERMINAL

    async def _again(self, batch: BatchRecord) -> None:
        before = batch.data.run

        def following(data: BatchData) -> BatchData | None:
            return msgspec.structs.replace(data, run=before + 1) if data.run == before else None

        # A batch that brings down each of its runs is given up.
        if before + 1 >= _MOST_RUNS:
            mistake = LineError("internal_error", f"{_MOST_RUNS} runs of the batch have failed")
            await self._shop.advance(batch.id, "failed", of=(batch.data.status,), mistakes=[mistake])
            return
        number = (await self._shop.change(batch.id, following)).data.run
        event("batch.run_again", batch=batch.id, run=number)
        await submit_run(self._shop.gateway, self._runner, batch.id, number)
