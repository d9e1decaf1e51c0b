"""One call of an endpoint through the queue, from the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dynamo_tasks.errors import DynamoError, RequestCancelledError
from dynamo_tasks.protocol.events import End, Kind
from dynamo_tasks.protocol.options import LAST_PRIORITY, RequestOptions
from dynamo_tasks.protocol.states import TERMINAL, State
from dynamo_tasks.queue.broker.envelope import build_request, submit_span
from dynamo_tasks.queue.client.result import values_of
from dynamo_tasks.queue.execution.outcome import Stop
from dynamo_tasks.runtime.routing.chooser import Chosen
from dynamo_tasks.sdk.context import Context, current_context
from dynamo_tasks.sdk.endpoints.handler import new_aggregate
from dynamo_tasks.sdk.endpoints.payloads import plain_request
from dynamo_tasks.store.ledger.submission import NewRequest
from dynamo_tasks.store.redis.connection import OPERATION_TIMEOUT, in_time
from dynamo_tasks.store.streams.subscription import Subscription

if TYPE_CHECKING:
    from dynamo_tasks.runtime.components.client import Client

__all__ = ["Item", "RemoteCall"]

_CHILD_ABANDON_AFTER = 30.0
"""A parent that lost its worker must be found dead, queued and claimed again within this time."""
_CHILD_TIMEOUT = 60.0
"""Seconds that Redis may keep silent when a running request makes a call: that outlives most outages."""


@dataclass(frozen=True, slots=True)
class Item:
    """One value of a stream, with the event that carried it."""

    id: str
    """Event id; several values of one event share it."""
    value: Any
    event: str | None = None

    def data(self) -> Any:
        """The value that the endpoint yielded."""
        return self.value


def _ends_children(exc: BaseException, context: Context) -> bool:
    """Return whether a call is left for good, and not by an attempt whose successor will find it again."""
    if not isinstance(exc, Stop):
        return not context.is_stopped
    return exc.reason in ("cancel", "deadline", "time_limit") or str(exc) in TERMINAL


def _options(context: Context | None) -> RequestOptions:
    """The options of a call, which inherits from the request that makes it."""
    if context is None:
        return RequestOptions(ignore_result=True)
    return RequestOptions(
        priority=LAST_PRIORITY if context.preemptible else 0,
        preemptible=context.preemptible,
        deadline=context.deadline,
        abandon_after=_CHILD_ABANDON_AFTER,
        ignore_result=True,
        tenant=context.tenant,
        weight=context.weight,
    )


class RemoteCall:
    """One call: iterate over its values, or await it. It is sent with the first of these.

    ``async for`` gives the values (items, for an annotated client). ``await`` of a streaming call gives the
    call itself, of any other one its result: the value, or for a generator the aggregate or list of values.

    With ``choose``, a function of payload and id, its instance is chosen when it is sent.
    """

    def __init__(
        self, client: Client, payload: Any, queue: str, *, streaming: bool, context: Context | None = None,
        choose: Callable[[Any, str], Awaitable[Chosen]] | None = None,
    ):  # fmt: skip
        self._client = client
        self._payload = payload
        self._queue = queue
        self._choose = choose
        self._chosen: Chosen | None = None
        self._streaming = streaming
        self._context = context if context is not None else current_context()
        self._sub: Subscription | None = None
        self._ending: asyncio.Task[None] | None = None
        self._values: AsyncIterator[Any] | None = None
        self.id = ""

    def __aiter__(self) -> RemoteCall:
        return self

    async def __anext__(self) -> Any:
        if self._values is None:
            self._values = self._open(annotated=self._client.annotated)
        return await anext(self._values)

    async def _open(self, *, annotated: bool) -> AsyncIterator[Any]:
        context = self._context
        forget = context.on_stop(self._stop) if context is not None else None
        self._sub = sub = await self._submit()
        try:
            async for event in sub:
                for value in values_of(event):
                    yield Item(str(event.id), value) if annotated else value
                if event.kind == Kind.END:
                    self._check(End.decode(event.data))
        except BaseException as exc:
            # What ended the stream itself leaves nothing to cancel.
            if context is not None and not isinstance(exc, DynamoError) and _ends_children(exc, context):
                await self._cancel()
            raise
        finally:
            if forget is not None:
                forget()
            sub.close()

    def _check(self, end: End) -> None:
        """Raise what the request ended with; an end that the context asked for is none."""
        asked = self._context is not None and self._context.is_stopped and not self._context.is_killed
        if not (asked and end.state is State.CANCELLED):
            end.raise_for_state()

    def _stop(self) -> None:
        """End the call, since the context that it belongs to was stopped."""
        assert self._context is not None
        if self._context.is_killed and self._sub is not None:
            self._sub.fail(RequestCancelledError("the context of the call was killed"))
        if self._sub is not None:
            self._ending = asyncio.ensure_future(self._cancel())

    async def _cancel(self) -> None:
        """End the request now, unless another client reads it, too."""
        store = self._client.store
        with contextlib.suppress(DynamoError):
            await store.ledger.cancel(
                self._client.id.namespace, self.id, guard=f"only {store.reader.channel}"
            )

    async def _submit(self) -> Subscription:
        self._client.check()
        context = self._context
        if context is not None and context.is_stopped:
            raise RequestCancelledError("the context of the call was stopped before it was sent")
        self.id = context.child_id() if context is not None else str(uuid.uuid4())
        endpoint = self._client.id
        headers = self._headers()
        if self._choose is not None:
            self._chosen = await self._choose(self._payload, self.id)
            self._queue = self._chosen.queue(endpoint)
        with submit_span(self.id, endpoint, self._queue, headers) as span:
            new = self._request(context, span.carry(headers))
            async with in_time(OPERATION_TIMEOUT if context is None else _CHILD_TIMEOUT):
                return await self._client.store.reader.submit(new)

    def _request(self, context: Context | None, headers: dict[str, str]) -> NewRequest:
        endpoint = self._client.id
        return build_request(
            endpoint,
            self.id,
            plain_request(self._payload, str(endpoint)),
            _options(context),
            queue=self._queue,
            prefix=self._client.store.store.prefix,
            headers=headers,
            marks=b"" if self._chosen is None else self._chosen.marks,
            waits=self._chosen is not None and self._chosen.late,
            # A child lives with its parent: the next attempt finds it there, whatever lanes were added meanwhile.
            lane=context.lane if context is not None else 0,
            fresh=context is None,
        )

    def _headers(self) -> dict[str, str]:
        return self._context.child_headers() if self._context is not None else {}

    def __await__(self) -> Generator[Any, None, Any]:
        return (self._itself() if self._streaming else self.result()).__await__()

    async def _itself(self) -> RemoteCall:
        return self

    async def result(self) -> Any:
        """Run to the end: the value, the aggregate, or the list of values."""
        values = [value async for value in self._open(annotated=False)]
        declared = self._client.declared
        if not self._client.streaming:
            return values[0] if values else None
        if declared is None:
            return values
        whole = new_aggregate(declared)
        for value in values:
            whole.add(value)
        return whole.result()

    async def aclose(self) -> None:
        """Leave the stream; the request ends when nobody else reads it."""
        close = getattr(self._values, "aclose", None)
        if close is not None:
            await close()
