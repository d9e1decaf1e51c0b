"""The result of a queued call: Celery's ``AsyncResult`` that is also a stream."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any

from celery.exceptions import TaskRevokedError
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import AsyncResult

from dynamo_tasks.errors import DynamoError, RequestNotFoundError
from dynamo_tasks.protocol.events import End, Event, EventId, Kind, decode_values
from dynamo_tasks.protocol.states import CELERY_STATES, TERMINAL, State
from dynamo_tasks.protocol.tokens import CompletionAggregate, decode_deltas
from dynamo_tasks.queue.backend import ResultBackend
from dynamo_tasks.store.bridge import bridge, in_thread
from dynamo_tasks.store.client import StoreClient, shared_client
from dynamo_tasks.store.record import Record

__all__ = ["StreamResult", "values_of"]

_FIRST_LOOK, _LOOK = 0.05, 1.0
"""Seconds before the first look into the ledger while Celery's backend is waited for, and between the others."""
_TAIL = 1.0
"""Seconds that a worker is given to write the result of a request that has ended."""


def values_of(event: Event) -> list[Any]:
    """The values that an event carries, as the endpoint's caller sees them."""
    if event.kind == Kind.TOKENS:
        return [delta.as_dict() for delta in decode_deltas(event.data)]
    if event.kind == Kind.VALUES:
        return decode_values(event.data)
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

    def __init__(
        self,
        id: str,
        backend: Any = None,
        *args: Any,
        namespace: str | None = None,
        app: Any = None,
        **kwargs: Any,
    ):
        if app is None:
            from dynamo_tasks.queue.app import default_app

            app = default_app()
        super().__init__(id, backend or app.endpoint_backend, *args, app=app, **kwargs)
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
                values += decode_values(event.data)
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
            celery.exceptions.TaskRevokedError: it was cancelled, or it expired.
            Exception: what the endpoint raised, as Celery rebuilds it.
        """
        return self._wait(timeout, propagate, threading.Event(), **kwargs)

    def _wait(self, timeout: float | None, propagate: bool, given_up: threading.Event, **kwargs: Any) -> Any:
        deadline = None if timeout is None else time.monotonic() + timeout
        wait = _FIRST_LOOK
        while not given_up.is_set():
            left = wait if deadline is None else max(0.0, min(wait, deadline - time.monotonic()))
            try:
                if not self.ignored:
                    return super().get(timeout=left, propagate=propagate, **kwargs)
                time.sleep(left)
                raise CeleryTimeoutError("The operation timed out.")
            except CeleryTimeoutError:
                record = bridge().call(self._record_or_none(self._client))
                if record is not None and _tells_all(record):
                    return self._from_ledger(record, propagate)
                if deadline is not None and time.monotonic() >= deadline:
                    raise
            wait = min(2 * wait, _LOOK) if self.ignored else _LOOK
        raise CeleryTimeoutError("nobody waits for it any more")

    def _from_ledger(self, record: Record, propagate: bool) -> Any:
        """The outcome of a request that has ended, where Celery's result backend does not tell it."""
        if isinstance(self.backend, ResultBackend):
            self.backend.wait_no_more(self)
        try:
            if record.state in (State.CANCELLED, State.EXPIRED):
                raise TaskRevokedError(record.error.message if record.error else str(record.state).lower())
            return bridge().call(self._collect(self._client))
        except (DynamoError, TaskRevokedError) as exc:
            if propagate:
                raise
            return exc

    def __await__(self) -> Generator[Any, None, Any]:
        return in_thread(lambda given_up: self._wait(None, True, given_up)).__await__()

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

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: Any = None,
        wait: bool = False,
        timeout: Any = None,
    ) -> None:
        """As ``AsyncResult.revoke``: no worker will start it; with ``terminate`` it is stopped if it runs.

        It ends in the ledger at once, with or without a worker that listens.
        """
        bridge().call(self._revoke(self._client, "" if terminate else "queued"))
        super().revoke(connection=connection, terminate=terminate, signal=signal, wait=wait, timeout=timeout)

    async def _revoke(self, client: StoreClient, guard: str) -> None:
        try:
            namespace = await client.store.find(self.id, self.namespace)
            await client.ledger.cancel(namespace, self.id, guard=guard)
        except RequestNotFoundError:
            return

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


def _tells_all(record: Record) -> bool:
    """Whether the ledger's outcome is to be taken: no result will be written, or it is overdue."""
    if record.state not in TERMINAL:
        return False
    if record.ignore_result or record.state in (State.CANCELLED, State.EXPIRED):
        return True
    return time.time() - (record.finished or 0.0) > _TAIL


def _event_id(after: str | EventId | None) -> EventId | None:
    return EventId.parse(after) if isinstance(after, str) else after
