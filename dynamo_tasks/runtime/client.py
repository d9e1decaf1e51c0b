"""Calling endpoints through the queue, from the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dynamo_tasks.config import suggest
from dynamo_tasks.errors import DynamoError, InvalidRequestError, RequestCancelledError, UnknownEndpointError
from dynamo_tasks.protocol.events import End, EventId, Kind
from dynamo_tasks.protocol.instances import InstanceInfo
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.protocol.states import TERMINAL, State
from dynamo_tasks.queue.envelope import build, submit_span
from dynamo_tasks.queue.interrupt import Stop
from dynamo_tasks.queue.result import values_of
from dynamo_tasks.router import Router, make_router
from dynamo_tasks.sdk import DynamoEndpoint, DynamoService
from dynamo_tasks.sdk.context import Context, current_context
from dynamo_tasks.store.client import StoreClient
from dynamo_tasks.store.submission import ABANDON_AFTER, NewRequest
from dynamo_tasks.store.subscription import Subscription

if TYPE_CHECKING:
    from dynamo_tasks.runtime.component import DistributedRuntime

__all__ = ["Client", "Item", "RemoteCall", "RemoteClient", "submit"]

_POLICIES = ("random", "round_robin", "power_of_two", "least_loaded", "direct")
_CHILD_ABANDON_AFTER = 30.0
"""A parent that lost its worker must be found dead, queued and claimed again within this time."""


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


async def submit(client: StoreClient, new: NewRequest) -> Subscription:
    """Queue a request and read it from its start.

    Raises:
        IdempotencyConflictError, QueueFullError, ServerUnavailableError: see :meth:`Ledger.submit`.
    """
    sub = client.reader.expect(new.endpoint.namespace, new.id)
    new.reader = client.reader.channel
    try:
        request_id = await client.ledger.submit(new)
    except BaseException:
        sub.close()
        raise
    if request_id == new.id:
        return sub
    sub.close()
    return await client.reader.join(request_id, namespace=new.endpoint.namespace)


def _ends_children(exc: BaseException, context: Context) -> bool:
    """Whether a call is left for good, and not by an attempt whose successor will find it again."""
    if not isinstance(exc, Stop):
        return not context.is_stopped
    return exc.reason in ("cancel", "deadline", "time_limit") or str(exc) in TERMINAL


class RemoteCall:
    """One call: iterate over its values, or await it. It is sent with the first of these.

    ``async for`` gives the values (items, for an annotated client). ``await`` of a streaming call gives the
    call itself, of any other one its result: the value, or for a generator the aggregate or list of values.
    """

    def __init__(
        self, client: Client, payload: Any, queue: str, *, streaming: bool, context: Context | None = None
    ):
        self._client = client
        self._payload = payload
        self._queue = queue
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
        """The context that it belongs to was stopped."""
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
        with submit_span(self.id, endpoint, self._queue, headers) as span:
            return await submit(self._client.store, self._request(context, span.carry(headers)))

    def _request(self, context: Context | None, headers: dict[str, str]) -> NewRequest:
        endpoint = self._client.id
        message, _ = build(endpoint, self.id, self._payload, queue=self._queue, more=headers)
        prefix = self._client.store.store.prefix
        return NewRequest(
            id=self.id,
            endpoint=endpoint,
            queue=f"{prefix}{self._queue}",
            message=message,
            ignore_result=True,
            deadline=context.deadline if context is not None else 0.0,
            tenant=context.tenant if context is not None else "",
            weight=context.weight if context is not None else 1.0,
            abandon_after=ABANDON_AFTER if context is None else _CHILD_ABANDON_AFTER,
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
        if declared is None or declared.aggregate is None:
            return values
        whole = declared.aggregate()
        for value in values:
            whole.add(value)
        return whole.result()

    async def aclose(self) -> None:
        """Leave the stream; the request ends when nobody else reads it."""
        close = getattr(self._values, "aclose", None)
        if close is not None:
            await close()


class Client:
    """A client of one endpoint, bound to the event loop of its runtime.

    ``generate`` uses the component's shared queue: idle workers pull. The others choose an instance.
    """

    def __init__(
        self, runtime: DistributedRuntime, endpoint: EndpointId, declared: DynamoEndpoint | None = None, *,
        annotated: bool = True,
    ):  # fmt: skip
        self.id = endpoint
        self.declared = declared
        self.annotated = annotated
        self._runtime = runtime
        self._routers: dict[str, Router] = {}

    @property
    def store(self) -> StoreClient:
        """The connections that it uses."""
        return self._runtime.client

    @property
    def name(self) -> str:
        """The endpoint's name."""
        return self.id.name

    @property
    def streaming(self) -> bool:
        """Whether the endpoint gives a stream: as declared, else as its live instances say."""
        if self.declared is not None:
            return self.declared.is_stream
        return all(info.streaming for info in self._runtime.watcher(self.id.namespace).of(self.id))

    def __call__(self, request: Any = None, *, context: Context | None = None) -> RemoteCall:
        """Call it; ``await`` gives the result."""
        return RemoteCall(self, request, self.id.queue, streaming=False, context=context)

    def generate(self, request: Any = None, *, context: Context | None = None) -> RemoteCall:
        """Call any instance through the shared queue; can be iterated directly and after ``await``.

        Args:
            request: JSON.
            context: What the call belongs to; by default the request that the caller serves.
        """
        return RemoteCall(self, request, self.id.queue, streaming=True, context=context)

    def _routed(
        self, policy: str, request: Any, context: Context | None, instance_id: int | None = None
    ) -> RemoteCall:
        router = self._routers.setdefault(policy, make_router(policy))
        watcher = self._runtime.watcher(self.id.namespace)
        chosen = router.choose(watcher.candidates(self.id), instance_id=instance_id)
        return RemoteCall(
            self, request, self.id.instance_queue(chosen.instance_id), streaming=True, context=context
        )

    def random(self, request: Any = None, *, context: Context | None = None) -> RemoteCall:
        """Call a random instance; raises ``NoInstancesError`` where there is none."""
        return self._routed("random", request, context)

    def round_robin(self, request: Any = None, *, context: Context | None = None) -> RemoteCall:
        """Call one instance after the other."""
        return self._routed("round_robin", request, context)

    def power_of_two(self, request: Any = None, *, context: Context | None = None) -> RemoteCall:
        """Call the less loaded of two random instances."""
        return self._routed("power_of_two", request, context)

    def least_loaded(self, request: Any = None, *, context: Context | None = None) -> RemoteCall:
        """Call the least loaded instance."""
        return self._routed("least_loaded", request, context)

    def direct(self, request: Any, instance_id: int | str, *, context: Context | None = None) -> RemoteCall:
        """Call one instance; its id as a number or in hex.

        Raises:
            InvalidRequestError: that is no lease id.
            NoInstancesError: the instance does not live any more.
        """
        try:
            wanted = int(instance_id, 16) if isinstance(instance_id, str) else instance_id
        except ValueError:
            raise InvalidRequestError(
                f"instance_id {instance_id!r} is no lease id: a number, or the same in hex",
                param="instance_id",
            ) from None
        return self._routed("direct", request, context, wanted)

    def static(self, request: Any = None, *, context: Context | None = None) -> RemoteCall:
        """Call without looking at the registry: the shared queue."""
        return self.generate(request, context=context)

    def check(self) -> None:
        """Refuse an endpoint that the component's live instances don't have. Without any the call may wait.

        Raises:
            UnknownEndpointError: lists those that they have.
        """
        if self.declared is not None:
            return
        infos = self._runtime.watcher(self.id.namespace).instances
        known = {info.endpoint for info in infos if info.component == self.id.component}
        if known and self.id.name not in known:
            address = f"{self.id.namespace}.{self.id.component}"
            hint = suggest(self.id.name, known, label="available")
            raise UnknownEndpointError(f"{address} has no endpoint {self.id.name!r}{hint}")

    def instance_ids(self) -> list[int]:
        """Lease ids of the live instances."""
        return [info.lease_id for info in self._runtime.watcher(self.id.namespace).of(self.id)]

    async def wait_for_instances(self, n: int = 1, timeout: float | None = None) -> list[InstanceInfo]:
        """Wait until ``n`` instances serve the endpoint.

        Raises:
            NoInstancesError: not within ``timeout`` seconds.
        """
        return await self._runtime.watcher(self.id.namespace).wait_for(self.id, n, timeout)

    async def attach(self, request_id: str, after: str | None = None) -> Subscription:
        """Read a request by its id."""
        position = EventId.parse(after) if after else None
        return await self.store.reader.join(request_id, after=position, namespace=self.id.namespace)


class RemoteClient:
    """What ``depends()`` gives for a service in another process: one attribute per endpoint."""

    def __init__(self, runtime: DistributedRuntime, target: DynamoService[Any] | EndpointId):
        self._runtime = runtime
        self._target = target

    def __repr__(self) -> str:
        name = self._target if isinstance(self._target, EndpointId) else self._target.name
        return f"<RemoteClient of {name}>"

    def __getattr__(self, name: str) -> Client:
        if name.startswith("_"):
            raise AttributeError(name)
        found = self.__dict__[name] = self._client(name)
        return found

    async def get_endpoint(self, name: str) -> Client:
        """One endpoint by its name.

        Raises:
            UnknownEndpointError: there is none; lists those that are there.
        """
        return self._client(name)

    def _client(self, name: str) -> Client:
        target = self._target
        if not isinstance(target, EndpointId):
            declared = target.find_endpoint(name)
            return Client(self._runtime, declared.id, declared, annotated=False)
        if name not in (target.name, target.name.replace("/", "_").replace("-", "_"), "generate"):
            raise UnknownEndpointError(f"{target.url} has the endpoint {target.name!r}, not {name!r}")
        return Client(self._runtime, target, annotated=False)
