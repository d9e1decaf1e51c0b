"""Calls of services through Celery: the request queue of a service that is a component."""

from __future__ import annotations

import asyncio
import builtins
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from dynamo_tasks.errors import DynamoError, EndpointError
from dynamo_tasks.pipelines.messages import ServiceRequest, ServiceResponse
from dynamo_tasks.pipelines.service_methods import refuse_method
from dynamo_tasks.pipelines.value_stream import ValueStream
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.runtime.client import Client, RemoteCall
from dynamo_tasks.runtime.component import DistributedRuntime
from dynamo_tasks.sdk.context import Context

__all__ = ["CeleryQueueDescriptor", "Remote"]

_GRACE = 1.0
"""Seconds that a request may outlive its caller: who waits says first that it took too long."""


@dataclass(frozen=True)
class Remote:
    """This process's way to the server.

    Attributes:
        runtime: Its connections.
        loop: What they are bound to.
    """

    runtime: DistributedRuntime
    loop: asyncio.AbstractEventLoop

    def spawn(self, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start a coroutine on the loop, from any thread."""
        self.loop.call_soon_threadsafe(lambda: _hold(self.loop.create_task(make())))

    def run(self, coro: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the loop and wait for it, from another thread."""
        return asyncio.run_coroutine_threadsafe(coro, self.loop).result()


_running: set[asyncio.Task[None]] = set()


def _hold(task: asyncio.Task[None]) -> None:
    """The loop itself keeps only a weak reference."""
    _running.add(task)
    task.add_done_callback(_running.discard)


class CeleryQueueDescriptor:
    """The queue of a service that is a component; it is at the same time the queue.

    Args:
        service: Name of the service.
        remote: The way to the server.
        endpoint: Where a method is called.
        methods: What can be called.
        streams: Those of them that are generators.
    """

    kind = "celery"

    def __init__(
        self,
        service: str,
        remote: Remote,
        endpoint: Callable[[str], EndpointId],
        methods: list[str],
        streams: list[str],
    ):
        self.name = endpoint(methods[0] if methods else "process").queue
        self._service = service
        self._remote = remote
        self._endpoint = endpoint
        self._methods = methods
        self._streams = frozenset(streams)
        self._clients: dict[str, Client] = {}

    def get_queue(self) -> CeleryQueueDescriptor:
        """The queue."""
        return self

    def put(self, request: ServiceRequest) -> None:
        """Send a request; its response is put where it says."""
        self._remote.spawn(lambda: self._answer(request))

    def _call(self, request: ServiceRequest) -> RemoteCall:
        method = request.method_name
        if method not in self._methods:
            refuse_method(self._service, method, self._methods)
        client = self._clients.get(method)
        if client is None:
            client = _Client(self._remote.runtime, self._endpoint(method), annotated=False)
            self._clients[method] = client
        payload = {"args": list(request.args), "kwargs": request.kwargs}
        return client.static(payload, context=Context(deadline=request.deadline + _GRACE))

    async def _answer(self, request: ServiceRequest) -> None:
        began = time.monotonic()
        try:
            call = self._call(request)
            if request.method_name in self._streams:
                return await self._stream(request, call)
            values = [value async for value in call]
        except (DynamoError, TypeError) as exc:
            request.response_queue.put(_failure(request, exc))
            return
        elapsed = time.monotonic() - began
        result = values[0] if values else None
        request.response_queue.put(ServiceResponse(True, result, None, elapsed, request.request_id))

    async def _stream(self, request: ServiceRequest, call: RemoteCall) -> None:
        """The first value answers the call; a thread of the loop's moves the rest as the reader takes it."""
        source = aiter(call)
        first = [value async for value in _first(source)]
        stream = ValueStream()
        pump = stream.pump
        request.response_queue.put(ServiceResponse(True, stream, None, 0.0, request.request_id))
        del stream
        await asyncio.to_thread(pump, _blocking(first, source, self._remote))


class _Client(Client):
    """A client that asks nobody what is registered: a service may just be moving to another worker."""

    def check(self) -> None:
        """Its methods are known from the plan of the job."""


async def _first(source: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for value in source:
        yield value
        return


def _blocking(first: list[Any], source: AsyncIterator[Any], remote: Remote) -> Any:
    """Iterate over a stream of the loop from a thread."""
    try:
        yield from first
        while first:
            try:
                yield remote.run(_next(source))
            except StopAsyncIteration:
                return
    finally:
        remote.run(source.aclose())  # type: ignore[attr-defined]


async def _next(source: AsyncIterator[Any]) -> Any:
    return await anext(source)


def _failure(request: ServiceRequest, exc: Exception) -> ServiceResponse:
    """What the service raised: its type is known by name."""
    response = ServiceResponse.failure(request.request_id, exc)
    if isinstance(exc, EndpointError):
        response.error = exc.message
        response.error_types = _bases(exc.message.partition(":")[0])
    elif isinstance(exc, DynamoError):
        response.error = exc.message
    return response


def _bases(name: str) -> tuple[str, ...]:
    """Names of a type and of its bases, where it is a builtin one."""
    known = getattr(builtins, name, None)
    return tuple(one.__name__ for one in known.__mro__) if isinstance(known, type) else (name,)
