"""Requests that were submitted, by their ids: read, looked up, cancelled."""

from __future__ import annotations

from dynamo_tasks.errors import RequestNotFoundError
from dynamo_tasks.frontend.gateway import EventStream, QueuePlace, RequestInfo
from dynamo_tasks.protocol.events import Event, EventId
from dynamo_tasks.protocol.states import State
from dynamo_tasks.runtime.components.component import DistributedRuntime
from dynamo_tasks.runtime.resting import place_of
from dynamo_tasks.store.documents import Documents
from dynamo_tasks.store.ledger.dead import DeadList
from dynamo_tasks.store.ledger.record import Record
from dynamo_tasks.store.redis.connection import in_time
from dynamo_tasks.store.redis.server import Store
from dynamo_tasks.store.streams.at_rest import decode_row, read_all

__all__ = ["CONNECT_SECONDS", "KnownRequests"]

CONNECT_SECONDS = 3.0
"""Seconds that an HTTP client waits for a Redis server which does not answer; then it is a 503."""


class KnownRequests:
    """The part of a gateway that takes the id of a request.

    Args:
        runtime: The process's connections.
    """

    def __init__(self, runtime: DistributedRuntime):
        self._runtime = runtime
        self._watchers = runtime.registry.watchers

    async def attach(self, request_id: str, after: EventId | None, owner_key: str | None) -> EventStream:
        """Read a request's stream, from its start or after an event."""
        async with in_time(CONNECT_SECONDS):
            return await self._runtime.client.reader.join(request_id, after=after, owner_key=owner_key)

    async def _record(self, request_id: str, owner_key: str | None) -> Record:
        record = await self._runtime.client.ledger.get(request_id)
        if record.owner_key and owner_key not in (None, record.owner_key):
            raise RequestNotFoundError(f"no request {request_id!r} is known")
        return record

    async def status(self, request_id: str, owner_key: str | None) -> RequestInfo:
        """Report the status of a request."""
        async with in_time(CONNECT_SECONDS):
            return await self._info(await self._record(request_id, owner_key))

    async def _info(self, record: Record) -> RequestInfo:
        store = await self._runtime.client.home(record.id, record.namespace)
        key = store.keys(record.namespace).stream(record.id)
        rows = await store.commands.execute("XREVRANGE", key, "+", "-", "COUNT", 1)
        last = decode_row(rows[0]).id if rows else record.end
        return RequestInfo(
            id=record.id, state=record.state, endpoint=record.endpoint, created=record.created,
            attempts=record.attempts, last_event=str(last) if last else "0-0", error=record.error,
            finish_reason=record.finish_reason, usage=record.usage,
            render=record.render, finished=record.finished or 0.0,
            place=await self._place(store, record.namespace, record.id) if record.state is State.QUEUED else None,
        )  # fmt: skip

    async def place(self, request_id: str) -> QueuePlace | None:
        """Tell where it stands."""
        async with in_time(CONNECT_SECONDS):
            return await self._place(*await self._runtime.client.where(request_id), request_id)

    async def _place(self, store: Store, namespace: str, request_id: str) -> QueuePlace | None:
        found = await place_of(store, namespace, request_id, self._watchers.get(namespace))
        return None if found is None else QueuePlace(*found)

    async def events(self, request_id: str, owner_key: str) -> list[Event]:
        """Read a request's events, as they are now."""
        async with in_time(CONNECT_SECONDS):
            record = await self._record(request_id, owner_key)
            store = await self._runtime.client.home(request_id, record.namespace)
            return await read_all(store, record.namespace, request_id)

    async def document(self, request_id: str, owner_key: str, part: str = "given") -> bytes:
        """Read what an API keeps beside the record of a request."""
        async with in_time(CONNECT_SECONDS):
            record = await self._record(request_id, owner_key)
            store = await self._runtime.client.home(request_id, record.namespace)
            return await Documents(store).read(record.namespace, request_id, part)

    async def keep(self, request_id: str, made: bytes, retention: float) -> None:
        """Keep what an API has made of a stream that has ended."""
        async with in_time(CONNECT_SECONDS):
            store, namespace = await self._runtime.client.where(request_id)
            await Documents(store).keep(namespace, request_id, made, retention)

    async def cancel(self, request_id: str, owner_key: str | None, purge: bool) -> RequestInfo:
        """Stop a request; with ``purge`` erase payload and stream too."""
        ledger = self._runtime.client.ledger
        async with in_time(CONNECT_SECONDS):
            record = await self._record(request_id, owner_key)
            await ledger.cancel(record.namespace, request_id)
            if purge:
                await ledger.upkeep.purge(record.namespace, request_id)
            return await self._info(await ledger.get(request_id, record.namespace))

    async def retry(self, request_id: str) -> None:
        """Queue a dead letter again."""
        async with in_time(CONNECT_SECONDS):
            store, _ = await self._runtime.client.where(request_id)
            await DeadList(store).retry(request_id)
