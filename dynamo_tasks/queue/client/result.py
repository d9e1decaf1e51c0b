"""The result of a queued call: Celery's ``AsyncResult`` that is also a stream."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import ResultSet
from celery.states import PENDING

from dynamo_tasks.errors import (
    RequestFailedError,
    RequestNotFoundError,
    ServerUnavailableError,
    StreamDivergedError,
)
from dynamo_tasks.protocol.events import End, Event, EventId, Kind, decode_values
from dynamo_tasks.protocol.tokens import decode_deltas
from dynamo_tasks.queue.broker.outages import raise_known_error, while_away
from dynamo_tasks.queue.client import raised
from dynamo_tasks.queue.client.awaited import COMPLETION_SECONDS, RequestResult
from dynamo_tasks.store.bridge import bridge
from dynamo_tasks.store.client import StoreClient

__all__ = ["StreamResult", "values_of"]

_SOON, _LATER = 0.02, 0.1
"""Seconds between two looks for the step of a chain that is to come, at first and in the end."""
_LOOK_BACK = 0.5
"""Seconds between two looks at the steps before it."""


def values_of(event: Event) -> list[Any]:
    """The values that an event carries, as the endpoint's caller sees them."""
    if event.kind == Kind.TOKENS:
        return [delta.as_dict() for delta in decode_deltas(event.data)]
    if event.kind == Kind.VALUES:
        return decode_values(event.data)
    if event.kind == Kind.END:
        return End.decode(event.data).values or []
    return []


class StreamResult(RequestResult):
    """A handle on a request, from any process that reaches its server.

    Iterating gives the values that the endpoint yields, live or stored::

        for chunk in Worker.generate.delay({"prompt": "hi"}): ...
        async for chunk in result: ...
        StreamResult("<id>").stream(after="1763790000000-57")

    Of a chain's last step it begins as soon as that step exists.

    Args:
        id: Request id (= Celery task id).
        namespace: Where it lives; every namespace is asked by default.
    """

    def stream(self, after: str | EventId | None = None) -> Iterator[Any]:
        """Iterate over the values after an event (default: from the start), until the request has ended.

        A server that is away, at the start or later, is waited for.

        Raises:
            RequestNotFoundError: no such request.
            StreamExpiredError: its stream is past its retention.
            RequestFailedError: what the request ended with, after its last value; as :meth:`get` raises it.
        """
        try:
            yield from bridge().iterate(self._values(self._client, _event_id(after)))
        except RequestFailedError as exc:
            made = self._as_get_says(exc)
            if made is exc:
                raise
            raise made from exc

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
                except RequestFailedError as exc:
                    made = await asyncio.to_thread(self._as_get_says, exc)
                    if made is exc:
                        raise
                    raise made from exc
                yield value
        finally:
            await self._on_bridge(source.aclose)  # type: ignore[attr-defined]

    def __aiter__(self) -> AsyncIterator[Any]:
        return self.astream()

    def _as_get_says(self, exc: RequestFailedError) -> Exception:
        """Return the exception that :meth:`get` raises, of a request whose stream has ended with an error."""
        if isinstance(exc, (StreamDivergedError, *raised.REVOKED.values())):
            return exc
        try:
            self._wait(COMPLETION_SECONDS, True, threading.Event(), disable_sync_subtasks=False)
        except CeleryTimeoutError:
            return exc
        except RequestFailedError as raised_by_get:
            return raised_by_get
        return exc

    async def _values(self, client: StoreClient, after: EventId | None) -> AsyncIterator[Any]:
        await client.ready()
        await self._begun(client)
        async for event in self._events(client, after):
            for value in values_of(event):
                yield value
            if event.kind == Kind.END:
                raised.raise_end(End.decode(event.data))

    async def _begun(self, client: StoreClient) -> None:
        """Wait for a step of a chain until those before it have ended."""
        wait, looked = _SOON, 0.0
        while self.parent is not None and not await self._exists(client):
            if time.monotonic() - looked >= _LOOK_BACK:
                if not await asyncio.to_thread(self._may_come):
                    return
                looked = time.monotonic()
            await asyncio.sleep(wait)
            wait = min(wait * 1.5, _LATER)

    async def _exists(self, client: StoreClient) -> bool:
        with suppress(ServerUnavailableError):
            return await self._record_or_none(client) is not None
        return False

    def _may_come(self) -> bool:
        """Return whether a chain may still come to this step.

        Raises:
            Exception: what it ended with before.
        """
        parents = list(self._parents())
        try:
            for node in (*reversed(parents), self):
                raise_known_error(node)
        except Exception as exc:  # noqa: BLE001 - whatever it was
            raise raised.both(exc) from exc.__cause__
        with while_away(self.backend):
            return self._cache is None and _is_known(parents[-1])
        return True

    async def _on_bridge(self, make: Callable[[], Any]) -> Any:
        future = asyncio.run_coroutine_threadsafe(_awaited(make), bridge().loop)
        return await asyncio.wrap_future(future)

    def __reduce__(self) -> Any:
        return StreamResult, self.__reduce_args__()


async def _awaited(make: Callable[[], Any]) -> Any:
    return await make()


def _is_known(first: Any) -> bool:
    """Return whether there is something to wait for: a chain's first step, if a request, is queued at once."""
    if isinstance(first, ResultSet):
        return any(map(_is_known, first.results))
    return not isinstance(first, RequestResult) or first.state != PENDING or _is_recorded(first)


def _is_recorded(result: RequestResult) -> bool:
    try:
        return not result.record().purged
    except RequestNotFoundError:
        return False


def _event_id(after: str | EventId | None) -> EventId | None:
    return EventId.parse(after) if isinstance(after, str) else after
