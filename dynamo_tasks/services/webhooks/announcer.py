"""The announcement of ends: an event for each address that wants it, as a durable request of ``Background.deliver``.

Requests whose end is to be told are noted as objects before they are submitted. Every ``Background`` looks at the notes
once a second; so no slot waits, and none is forgotten.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Struct

from dynamo_tasks.errors import DynamoError, ObjectNotFoundError, RequestNotFoundError
from dynamo_tasks.frontend.batches.records import SYSTEM, BatchRecord
from dynamo_tasks.frontend.gateway import Gateway, Submission
from dynamo_tasks.frontend.responses.names import response_id
from dynamo_tasks.observe.log import event
from dynamo_tasks.protocol.jitter import jittered
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.protocol.options import RequestOptions
from dynamo_tasks.protocol.states import TERMINAL, State
from dynamo_tasks.runtime.supervision.actor import Actor
from dynamo_tasks.services.webhooks.delivery import Delivery, delivery_id, next_delay
from dynamo_tasks.services.webhooks.targets import WebhookTarget
from dynamo_tasks.store.client import StoreClient
from dynamo_tasks.store.ledger.record import Record
from dynamo_tasks.store.objects import ObjectKind, Objects
from dynamo_tasks.store.redis.containment import contained

__all__ = ["WATCHED", "WATCHED_FOR", "Announcer", "Watched"]

_EVERY = 1.0
_UNBORN = 60.0
"""Seconds within which a request follows its note."""
WATCHED_FOR = 72 * 3600.0
_INCOMPLETE = ("length", "content_filter", "max_tokens")


class Watched(Struct, frozen=True):
    """A response whose end is to be told."""


WATCHED: ObjectKind[Watched] = ObjectKind("watched-response", Watched, most=1_000_000)
"""The notes, by the ids of requests."""


class Announcer(Actor):
    """Tells addresses about ends.

    Args:
        client: Redis.
        objects: Where notes are.
        gateway: The way to the queue.
        endpoint: ``Background.deliver``.
        targets: The addresses.
    """

    name = "announcer"

    def __init__(
        self,
        client: StoreClient,
        objects: Objects,
        gateway: Gateway,
        endpoint: EndpointId,
        targets: Sequence[WebhookTarget],
    ):
        self._client = client
        self._objects = objects
        self._gateway = gateway
        self._endpoint = endpoint
        self._targets = {target.url: target for target in targets}

    def target(self, url: str) -> WebhookTarget | None:
        """The address of a URL, if it is configured."""
        return self._targets.get(url)

    async def batch_ended(self, batch: BatchRecord) -> None:
        """Tell about a batch that has ended. Safe to repeat."""
        status = batch.data.status
        space = uuid.UUID(batch.id.removeprefix("batch_"))
        await self._tell(space, f"batch.{status}", batch.id, batch.data.times.get(f"{status}_at", 0))

    async def again(self, delivery: Delivery) -> bool:
        """Queue the next try of a delivery, for its time; returns whether there is one."""
        delay = next_delay(delivery, time.time())
        if delay is None:
            return False
        following = msgspec.structs.replace(delivery, number=delivery.number + 1)
        await self._queue(following, time.time() + delay)
        return True

    async def _tell(self, space: uuid.UUID, kind: str, name: str, moment: int) -> None:
        # Of what it is about, not of chance: told twice, it is one event, and one request for each address.
        event_id = f"evt_{uuid.uuid5(space, kind).hex}"
        body: dict[str, Any] = {
            "id": event_id, "object": "event", "created_at": moment, "type": kind, "data": {"id": name},
        }  # fmt: skip
        text = msgspec.json.encode(body).decode()
        for target in self._targets.values():
            if kind in target.events:
                await self._queue(Delivery(target.url, event_id, text, float(moment)), 0.0)

    async def _queue(self, delivery: Delivery, not_before: float) -> None:
        options = RequestOptions(background=True, ignore_result=True, not_before=not_before)
        payload = msgspec.to_builtins(delivery)
        await self._gateway.enqueue(Submission(self._endpoint, payload, delivery_id(delivery), options))

    # -- responses ----------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(jittered(_EVERY, 0.8, 1.2))
            try:
                await self.look()
            except DynamoError as exc:
                event("webhook.watch_failed", error=exc.message)

    async def look(self) -> None:
        """Look at each note once."""
        after, more = "", True
        while more:
            page = await self._objects.page(WATCHED, SYSTEM, order="asc", after=after, limit=100)
            for note in page.objects:
                with contained("objects", f"watched response {note.id}"):
                    await self._look_at(note.id, note.created)
                after = note.id
            more = page.more and bool(page.objects)

    async def _look_at(self, request_id: str, noted: float) -> None:
        try:
            record = await self._client.ledger.get(request_id)
        except RequestNotFoundError:
            if time.time() - noted > _UNBORN:
                await self._forget(request_id)
            return
        if record.state in TERMINAL:
            moment = int(record.finished or noted)
            await self._tell(uuid.UUID(request_id), _kind_of(record), response_id(request_id), moment)
            await self._forget(request_id)

    async def _forget(self, request_id: str) -> None:
        with suppress(ObjectNotFoundError):
            await self._objects.delete(WATCHED, request_id, SYSTEM)


def _kind_of(record: Record) -> str:
    if record.state is State.CANCELLED:
        return "response.cancelled"
    if record.state is not State.SUCCEEDED:
        return "response.failed"
    return f"response.{'incomplete' if record.finish_reason in _INCOMPLETE else 'completed'}"
