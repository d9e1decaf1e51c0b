"""The result of a queued call: Celery's ``AsyncResult`` that is also a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any

import msgspec
from celery.result import AsyncResult

from dynamo_tasks.errors import DynamoError, RequestNotFoundError
from dynamo_tasks.protocol.events import End, Event, EventId, Kind
from dynamo_tasks.protocol.states import CELERY_STATES
from dynamo_tasks.protocol.tokens import CompletionAggregate, decode_deltas
from dynamo_tasks.store.bridge import bridge
from dynamo_tasks.store.client import StoreClient, shared_client
from dynamo_tasks.store.ledger import Record

__all__ = ["StreamResult", "values_of"]

_decode_values = msgspec.msgpack.Decoder(list[Any]).decode


def values_of(event: Event) -> list[Any]:
    """The values that an event carries, as the endpoint's caller sees them."""
    if event.kind == Kind.TOKENS:
        return [delta.as_dict() for delta in decode_deltas(event.data)]
    if event.kind == Kind.VALUES:
        return _decode_values(event.data)
    if event.kind == Kind.END:
        return End.decode(event.data).values or []
    return []


class StreamResult(AsyncResult):  # type: ignore[misc]
    """A handle on a request, from any process that reaches its server.

    Iterating gives the values that the endpoint yields, live or from the log::

        for chunk in Worker.generate.delay({"prompt": "hi"}): ...
        async for chunk in result: ...
        StreamResult("<id>").stream(after="1763790000000-57")

    Args:
        id: Request id (= Celery task id).
        namespace: Where it lives; every namespace is asked by default.
    """

    def __init__(self, id: str, *args: Any, namespace: str | None = None, app: Any = None, **kwargs: Any):
        if app is None:
            from dynamo_tasks.queue.app import default_app

            app = default_app()
        super().__init__(id, *args, app=app, **kwargs)
        self.namespace = namespace

    @property
    def _client(self) -> StoreClient:
        return shared_client(self.app.server_url, self.app.key_prefix)

    def stream(self, after: str | EventId | None = None) -> Iterator[Any]:
        """Iterate over the values behind an event (default: from the start), until the request has ended.

        Raises:
            RequestNotFoundError: no such request.
            StreamExpiredError: its log is past its retention.
            RequestFailedError: what the request ended with, behind its last value.
        """
        return bridge().iterate(self._values(self._client, _event_id(after)))

    def __iter__(self) -> Iterator[Any]:
        return self.stream()

    async def astream(self, after: str | EventId | None = None) -> AsyncIterator[Any]:
        """The same for asynchronous callers on any loop."""
        client = await asyncio.to_thread(lambda: self._client)
        source = self._values(client, _event_id(after))
        try:
            while True:
                try:
                    value = await self._on_bridge(source.__anext__)
                except StopAsyncIteration:
                    return
                yield value
        finally:
            await self._on_bridge(source.aclose)  # type: ignore[attr-defined]

    def __aiter__(self) -> AsyncIterator[Any]:
        return self.astream()

    async def _events(self, client: StoreClient, after: EventId | None = None) -> AsyncIterator[Event]:
        """The raw events; on the bridge's loop."""
        sub = await client.reader.join(self.id, after=after, namespace=self.namespace)
        try:
            async for event in sub:
                yield event
        finally:
            sub.close()

    async def _values(self, client: StoreClient, after: EventId | None) -> AsyncIterator[Any]:
        async for event in self._events(client, after):
            for value in values_of(event):
                yield value
            if event.kind == Kind.END:
                End.decode(event.data).raise_for_state()

    async def _collect(self, client: StoreClient) -> Any:
        """Wait for the end; the value, where the stream alone tells it."""
        values: list[Any] = []
        completion = CompletionAggregate()
        end: End | None = None
        async for event in self._events(client):
            if event.kind == Kind.TOKENS:
                for delta in decode_deltas(event.data):
                    completion.add(delta)
            elif event.kind == Kind.VALUES:
                values += _decode_values(event.data)
            elif event.kind == Kind.END:
                end = End.decode(event.data)
        if end is None:
            raise RequestNotFoundError(f"the stream of request {self.id} has no end")
        end.raise_for_state()
        if end.values is not None:
            return end.values[0]
        return values or completion.result()

    def get(self, timeout: float | None = None, propagate: bool = True, **kwargs: Any) -> Any:
        """Wait for the request and return its value: what the endpoint returned, or its aggregate.

        Args:
            timeout: Seconds; ``TimeoutError`` after that.
            propagate: Raise what the request failed with; else return the exception.
            **kwargs: As ``AsyncResult.get`` takes them.

        Raises:
            celery.exceptions.TimeoutError: not ready in time.
            Exception: what the endpoint raised, as Celery rebuilds it.
        """
        record = bridge().call(self._record_or_none(self._client))
        if record is not None and record.ignore_result:
            return self._get_from_stream(timeout, propagate)
        return super().get(timeout=timeout, propagate=propagate, **kwargs)

    def _get_from_stream(self, timeout: float | None, propagate: bool) -> Any:
        from celery.exceptions import TimeoutError as CeleryTimeoutError

        try:
            return bridge().call(self._collect(self._client), timeout)
        except TimeoutError:
            raise CeleryTimeoutError("The operation timed out.") from None
        except DynamoError as exc:
            if propagate:
                raise
            return exc

    def __await__(self) -> Generator[Any, None, Any]:
        return asyncio.to_thread(self.get).__await__()

    async def _record_or_none(self, client: StoreClient) -> Record | None:
        try:
            return await client.ledger.get(self.id, self.namespace)
        except RequestNotFoundError:
            return None

    def record(self) -> Record:
        """What the ledger knows of the request.

        Raises:
            RequestNotFoundError: nothing.
        """
        return bridge().call(self._client.ledger.get(self.id, self.namespace))

    @property
    def state(self) -> str:
        """Celery's state; where its backend knows none (yet), the ledger's."""
        state: str = super().state
        if state != "PENDING":
            return state
        record = bridge().call(self._record_or_none(self._client))
        if record is None:
            return state
        return "RETRY" if record.state == "QUEUED" and record.retries else CELERY_STATES[record.state]

    @property
    def status(self) -> str:
        """The same as :attr:`state`."""
        return self.state

    def cancel(self) -> bool:
        """End the request now, queued or running. Returns whether it had not ended before.

        Raises:
            RequestNotFoundError: no such request.
        """
        return bridge().call(self._cancel(self._client))

    async def _cancel(self, client: StoreClient) -> bool:
        namespace = await client.store.find(self.id, self.namespace)
        return await client.ledger.cancel(namespace, self.id) == "OK"

    async def _on_bridge(self, make: Callable[[], Any]) -> Any:
        future = asyncio.run_coroutine_threadsafe(_awaited(make), bridge().loop)
        return await asyncio.wrap_future(future)

    def __reduce__(self) -> Any:
        return self.__class__, (self.id,)


async def _awaited(make: Callable[[], Any]) -> Any:
    return await make()


def _event_id(after: str | EventId | None) -> EventId | None:
    return EventId.parse(after) if isinstance(after, str) else after
