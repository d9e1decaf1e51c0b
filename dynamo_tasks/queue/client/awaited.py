"""Celery's ``AsyncResult`` of a request: where Celery's backend knows nothing (yet), the ledger does."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

from celery.backends.base import DisabledBackend
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import AsyncResult
from celery.states import EXCEPTION_STATES, PENDING, READY_STATES, RETRY, STARTED

from dynamo_tasks.errors import DynamoError, RequestNotFoundError, ServerUnavailableError
from dynamo_tasks.protocol.events import IGNORED, End, Event, EventId, Kind, decode_values
from dynamo_tasks.protocol.states import CELERY_STATES, TERMINAL, State
from dynamo_tasks.protocol.tokens import CompletionAggregate, decode_deltas
from dynamo_tasks.queue.broker.backend import ResultBackend
from dynamo_tasks.queue.broker.outages import is_away, raise_known_error, while_away
from dynamo_tasks.queue.client import raised
from dynamo_tasks.store.bridge import bridge, in_thread
from dynamo_tasks.store.client import StoreClient, shared_client
from dynamo_tasks.store.ledger.record import Record
from dynamo_tasks.store.streams.subscription import Subscription
from dynamo_tasks.wiring import default_app

__all__ = ["COMPLETION_SECONDS", "RequestResult"]

T = TypeVar("T")
_FIRST_LOOK, _LOOK = 0.05, 1.0
"""Seconds before the first look into the ledger while Celery's backend is waited for, and between the others."""
COMPLETION_SECONDS = 1.0
"""Seconds that a worker is given to write the result of a request that has ended."""
_JOIN_AGAIN = 0.1
"""Seconds between two attempts to read a stream while Redis is away."""
_ANSWER = 5.0
"""Seconds that Redis may take to answer a synchronous question."""


class RequestResult(AsyncResult):  # type: ignore[misc]
    """The interface of Celery's ``AsyncResult``, for a request.

    Args:
        id: Request id (= Celery task id).
        backend: Celery's; by default that of the application's endpoints.
        task_name: As Celery's, which does not use it.
        app: The application.
        parent: Of a chain: the step before.
        namespace: Where it lives; every namespace is asked by default.
    """

    def __init__(
        self, id: str, backend: Any = None, task_name: str | None = None, app: Any = None, parent: Any = None, *,
        namespace: str | None = None,
    ):  # fmt: skip
        app = app or self.app or default_app()
        super().__init__(id, backend or app.endpoint_backend, app=app, parent=parent)
        self.namespace = namespace
        self._end_seen = 0.0

    @property
    def _client(self) -> StoreClient:
        return shared_client(self.app.server_urls, self.app.key_prefix)

    def _ask(self, question: Callable[[StoreClient], Coroutine[Any, Any, T]], seconds: float = _ANSWER) -> T:
        """Ask Redis from synchronous code.

        Raises:
            ServerUnavailableError: it cannot be reached, or does not answer.
        """
        client = self._client
        try:
            return bridge().call(_asked(client, question), seconds)
        except TimeoutError:
            raise ServerUnavailableError(
                f"no answer from the Redis server at {client.store.address} for {seconds:g} s",
                retry_after=1.0,
            ) from None

    async def _events(self, client: StoreClient, after: EventId | None = None) -> AsyncIterator[Event]:
        """Read the raw events after one of them, on the bridge's loop; waits for a server that is away."""
        sub = await self._join(client, after)
        try:
            async for event in sub:
                yield event
        finally:
            sub.close()

    async def _join(self, client: StoreClient, after: EventId | None) -> Subscription:
        while True:
            try:
                return await client.reader.join(self.id, after=after, namespace=self.namespace)
            except ServerUnavailableError:
                if client.store.commands.closed:
                    raise
            await asyncio.sleep(_JOIN_AGAIN)

    def get(self, timeout: float | None = None, propagate: bool = True, **kwargs: Any) -> Any:
        """Wait for the request and return its value: what the endpoint returned, or its aggregate.

        A server that is away meanwhile is waited for.

        Args:
            timeout: Seconds; ``TimeoutError`` after that.
            propagate: Raise what the request failed with; else return the exception.
            **kwargs: As ``AsyncResult.get`` takes them.

        Raises:
            celery.exceptions.TimeoutError: not ready in time.
            celery.exceptions.TaskRevokedError: it was cancelled, or it expired; a :class:`RequestFailedError`, too.
            Exception: what the endpoint raised, as Celery rebuilds it; an :class:`EndpointError`, too.
        """
        return self._wait(timeout, propagate, threading.Event(), **kwargs)

    wait = get

    def _wait(self, timeout: float | None, propagate: bool, given_up: threading.Event, **kwargs: Any) -> Any:
        deadline = None if timeout is None else time.monotonic() + timeout
        wait = _FIRST_LOOK
        while not given_up.is_set():
            left = wait if deadline is None else max(0.0, min(wait, deadline - time.monotonic()))
            try:
                return self._wait_notified(left, propagate, **kwargs)
            except CeleryTimeoutError:
                ended = None
                with while_away(self.backend):
                    record = self._ask(self._record_or_none, _LOOK)
                    ended = record if record is not None and not self._waits_on(record) else None
                if ended is not None:
                    return self._from_ledger(ended, propagate)
                known = self._cache is not None and not self.ignored
                if not known and deadline is not None and time.monotonic() >= deadline:
                    raise
            wait = min(2 * wait, _LOOK) if self.ignored else _LOOK
        raise CeleryTimeoutError("nobody waits for it any more")

    def _wait_notified(self, seconds: float, propagate: bool, **kwargs: Any) -> Any:
        """Return the outcome that Celery's backend has within so many seconds."""
        until = time.monotonic() + seconds
        if not self.ignored:
            try:
                return super().get(timeout=seconds, propagate=propagate, **kwargs)
            except Exception as exc:
                if self._has_failed():
                    made = raised.both(exc)
                    raise made from exc.__cause__
                if isinstance(exc, CeleryTimeoutError) or not is_away(self.backend, exc):
                    raise
        time.sleep(max(0.0, until - time.monotonic()))
        raise CeleryTimeoutError("The operation timed out.")

    def _has_failed(self) -> bool:
        """Return whether it, or a step before it, is known to have failed."""
        nodes = [self, *self._parents()]
        return any(cache and cache["status"] in EXCEPTION_STATES for cache in map(_outcomes, nodes))

    def _maybe_reraise_parent_error(self) -> None:
        for node in reversed(list(self._parents())):
            raise_known_error(node)

    def _from_ledger(self, record: Record, propagate: bool) -> Any:
        """The outcome of a request that has ended, where Celery's result backend does not have it."""
        if isinstance(self.backend, ResultBackend):
            self.backend.wait_no_more(self)
        return self._outcome_of(record, propagate)

    def _outcome_of(self, record: Record, propagate: bool) -> Any:
        try:
            if record.state in raised.REVOKED:
                raise raised.revoked(record.state, record.error.message if record.error else None)
            return self._ask(self._collect)
        except Exception as exc:
            if propagate or is_away(self.backend, exc):
                raise
            return exc

    def overdue(self) -> dict[str, Any] | None:
        """Return its outcome in the backend's form, if it has ended and no worker will write it any more."""
        with while_away(self.backend):
            record = self._ask(self._record_or_none, _LOOK)
            if record is not None and not self._waits_on(record):
                return self._meta_of(record)
            known: dict[str, Any] | None = self._cache
            return known
        return None

    def _waits_on(self, record: Record) -> bool:
        """Return whether the outcome comes from Celery's backend: it is there, or a worker may still write it.

        A worker has done so when the record is settled; else it has :data:`COMPLETION_SECONDS` from when the end was
        first seen here, whatever the clocks say.
        """
        if record.state not in TERMINAL:
            return True
        if record.ignore_result or record.state in raised.REVOKED:
            return False
        now = time.monotonic()
        self._end_seen = self._end_seen or now
        if not record.settled and now - self._end_seen < COMPLETION_SECONDS:
            return True
        return self._celerys_meta()["status"] in READY_STATES

    async def _collect(self, client: StoreClient) -> Any:
        """Wait for the end; the value, where the stream alone has it."""
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
        raised.raise_end(end)
        if end.finish_reason == IGNORED:
            return None
        if end.values is not None:
            return end.values[0]
        return values or completion.result()

    def __await__(self) -> Generator[Any, None, Any]:
        return in_thread(lambda given_up: self._wait(None, True, given_up)).__await__()

    async def _record_or_none(self, client: StoreClient) -> Record | None:
        try:
            return await client.ledger.get(self.id, self.namespace)
        except RequestNotFoundError:
            return None

    def record(self) -> Record:
        """Return the ledger's record of the request.

        Raises:
            RequestNotFoundError: there is none.
        """
        return self._ask(lambda client: client.ledger.get(self.id, self.namespace))

    def _get_task_meta(self) -> dict[str, Any]:
        """Celery's callback: all that its properties hold."""
        meta: dict[str, Any] = self._celerys_meta()
        if meta["status"] in READY_STATES:
            return meta
        record = self._ask(self._record_or_none)
        if record is None or record.purged:
            return meta
        if self._waits_on(record):
            return self._cache or {**meta, "status": _state_of(record)}
        ended: dict[str, Any] = self._maybe_set_cache(self._meta_of(record))
        return ended

    def _celerys_meta(self) -> dict[str, Any]:
        if isinstance(self.backend, DisabledBackend):
            return self._cache or {"status": PENDING, "result": None}
        meta: dict[str, Any] = super()._get_task_meta()
        return meta

    def _iter_meta(self, **kwargs: Any) -> Any:
        """Celery's callback before it waits: the backend's knowledge alone, since the ledger is looked at meanwhile."""
        return iter([self._celerys_meta()])

    def _meta_of(self, record: Record) -> dict[str, Any]:
        value = self._outcome_of(record, propagate=False)
        if record.state is State.SUCCEEDED and isinstance(value, DynamoError):
            value = None  # its stream is past its retention
        done = datetime.fromtimestamp(record.finished or record.created, UTC).isoformat()
        return {
            "status": CELERY_STATES[record.state], "result": value, "traceback": None, "children": [],
            "task_id": self.id, "date_done": done,
        }  # fmt: skip

    def cancel(self) -> bool:
        """End the request now, queued or running. Returns whether it had not ended before.

        Raises:
            RequestNotFoundError: no such request.
        """
        return self._ask(self._cancel)

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
        self._ask(lambda client: self._revoke(client, "" if terminate else "queued"))
        super().revoke(connection=connection, terminate=terminate, signal=signal, wait=wait, timeout=timeout)

    async def _revoke(self, client: StoreClient, guard: str) -> None:
        with suppress(RequestNotFoundError):
            _, namespace = await client.where(self.id, self.namespace)
            await client.ledger.cancel(namespace, self.id, guard=guard)

    async def _cancel(self, client: StoreClient) -> bool:
        _, namespace = await client.where(self.id, self.namespace)
        return await client.ledger.cancel(namespace, self.id) == "OK"

    def forget(self) -> None:
        """As ``AsyncResult.forget``: erase its result, and those of the steps before it.

        Of a request that has ended, payload and stream are erased, too, as by ``DELETE …?purge=true``: what is left
        is a record without either, so that its id answers "gone", not "unknown". Nobody is notified any more
        of one that was cancelled while its message waited.
        """
        super().forget()
        self._ask(self._purge)

    async def _purge(self, client: StoreClient) -> None:
        with suppress(RequestNotFoundError):
            _, namespace = await client.where(self.id, self.namespace)
            await client.ledger.upkeep.purge(namespace, self.id)

    def __reduce_args__(self) -> tuple[Any, ...]:
        # Without the backend: it is the application's own over there.
        return self.id, None, None, None, self.parent


async def _asked(client: StoreClient, question: Callable[[StoreClient], Coroutine[Any, Any, T]]) -> T:
    await client.ready()
    return await question(client)


def _outcomes(node: Any) -> Any:
    return getattr(node, "_cache", None)


def _state_of(record: Record) -> Any:
    """Celery's state of a request whose result is not there (yet)."""
    if record.state is State.QUEUED and record.retries:
        return RETRY
    # It has ended, and its result is on its way: who asks `ready()` asks for the result next.
    return STARTED if record.state in TERMINAL else CELERY_STATES[record.state]
