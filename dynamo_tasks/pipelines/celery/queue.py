"""Calls of services through Celery: the request queue of a service that is a component."""

from __future__ import annotations

import asyncio
import builtins
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self, TypeVar

from dynamo_tasks.config.host.redis_server import resolve_redis_url
from dynamo_tasks.errors import DynamoError, EndpointError, InvalidRequestError
from dynamo_tasks.pipelines.calls.messages import OUTLIVES, ServiceRequest, ServiceResponse
from dynamo_tasks.pipelines.calls.proxy import DEFAULT_METHOD
from dynamo_tasks.pipelines.calls.service_methods import refuse_method
from dynamo_tasks.pipelines.calls.value_stream import ValueStream
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.runtime.components.client import Client
from dynamo_tasks.runtime.components.component import DistributedRuntime
from dynamo_tasks.runtime.components.remote_call import RemoteCall
from dynamo_tasks.sdk.context import Context
from dynamo_tasks.store.bridge import bridge
from dynamo_tasks.store.redis.retry import retry_until_up

__all__ = ["CeleryQueueDescriptor", "EndpointQueueDescriptor", "Remote"]

T = TypeVar("T")


@dataclass(frozen=True)
class Remote:
    """This process's way to Redis.

    Attributes:
        runtime: Its connections.
        loop: The event loop that they are bound to.
    """

    runtime: DistributedRuntime
    loop: asyncio.AbstractEventLoop
    _made: list[Callable[[], Coroutine[Any, Any, None]]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def spawn(self, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start a coroutine on the loop, from any thread; the loop is woken up once for all that gathers."""
        with self._lock:
            first = not self._made
            self._made.append(make)
        if first:
            self.loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        with self._lock:
            made = list(self._made)
            self._made.clear()
        for make in made:
            _hold(self.loop.create_task(make()))

    @classmethod
    def open(cls, url: str | None) -> Remote:
        """Connect a process that is no worker; ``DYNAMO_REDIS_URL``, else the embedded server, by default.

        Raises:
            ServerUnavailableError: Redis cannot be reached, or none is configured.
        """
        return cls(bridge().call(DistributedRuntime.create(url or resolve_redis_url())), bridge().loop)

    def close(self) -> None:
        """Disconnect."""
        bridge().call(self.runtime.aclose())


_running: set[asyncio.Task[None]] = set()


def _hold(task: asyncio.Task[None]) -> None:
    """Keep a reference to a task: the loop itself keeps only a weak one."""
    _running.add(task)
    task.add_done_callback(_running.discard)


class _RemoteQueue(ABC):
    """Sends requests through Celery; it is its own descriptor."""

    kind = "celery"
    name: str

    def __init__(self, remote: Remote):
        self._remote = remote

    def get_queue(self) -> Self:
        """The queue."""
        return self

    def put(self, request: ServiceRequest) -> None:
        """Send a request; its response is put where it says."""
        self._remote.spawn(lambda: self._answer(request))

    @abstractmethod
    def _open(self, request: ServiceRequest) -> tuple[Client, Any, bool]:
        """Return the client to call, the payload, and whether the call streams."""

    async def _answer(self, request: ServiceRequest) -> None:
        began = time.monotonic()
        try:
            client, payload, streams = self._open(request)
            if streams:
                return await _stream(request, client, payload)
            deadline = time.time() + request.left + OUTLIVES
            values = await _persist(request, client, partial(_collect, client, payload, deadline))
        except (DynamoError, TypeError, ValueError, OverflowError, RecursionError, TimeoutError) as exc:
            request.response_queue.put(_failure(request, exc))
            return
        elapsed = time.monotonic() - began
        result = values[0] if values else None
        request.response_queue.put(ServiceResponse(True, result, None, elapsed, request.request_id))


class CeleryQueueDescriptor(_RemoteQueue):
    """The queue of a service that is a component.

    Args:
        service: Name of the service.
        remote: The way to Redis.
        endpoint: Where a method is called.
        methods: What can be called.
        streams: Those of them that are generators.
    """

    def __init__(
        self,
        service: str,
        remote: Remote,
        endpoint: Callable[[str], EndpointId],
        methods: list[str],
        streams: list[str],
    ):
        super().__init__(remote)
        self.name = endpoint(DEFAULT_METHOD).queue
        self._service = service
        self._endpoint = endpoint
        self._methods = methods
        self._streams = frozenset(streams)
        self._clients: dict[str, Client] = {}

    def _open(self, request: ServiceRequest) -> tuple[Client, Any, bool]:
        method = request.method_name
        if method not in self._methods:
            refuse_method(self._service, method, self._methods)
        client = self._clients.get(method)
        if client is None:
            client = _Client(self._remote.runtime, self._endpoint(method), annotated=False)
            self._clients[method] = client
        return client, {"args": list(request.args), "kwargs": request.kwargs}, method in self._streams


class EndpointQueueDescriptor(_RemoteQueue):
    """The queue of a component that other workers serve: an LLM, say.

    A call takes one argument: a text is the ``prompt``, a mapping the request; keyword arguments are added to it.

    Args:
        service: Name of the service.
        remote: The way to Redis.
        endpoint: Whom to call.
        streams: Whether it yields values; else it returns one.
    """

    def __init__(self, service: str, remote: Remote, endpoint: EndpointId, streams: bool):
        super().__init__(remote)
        self.name = endpoint.queue
        self._service = service
        self._streams = streams
        self._client = _Client(remote.runtime, endpoint, annotated=False)

    def _open(self, request: ServiceRequest) -> tuple[Client, Any, bool]:
        known = [DEFAULT_METHOD, self._client.id.name]
        if request.method_name not in known:
            refuse_method(self._service, request.method_name, known)
        return self._client, _payload(request.args, request.kwargs), self._streams


def _payload(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if len(args) > 1:
        raise InvalidRequestError(f"an endpoint takes one argument, not {len(args)}")
    given = args[0] if args else {}
    if isinstance(given, str):
        given = {"prompt": given}
    if kwargs and not isinstance(given, dict):
        raise InvalidRequestError("keyword arguments are added to a mapping or a prompt only")
    return {**given, **kwargs} if isinstance(given, dict) else given


class _Client(Client):
    """A client that asks nobody what is registered: a service may just be moving to another worker."""

    def check(self) -> None:
        """Do nothing: what can be called is known."""


async def _persist(request: ServiceRequest, client: Client, ask: Callable[[str], Awaitable[T]]) -> T:
    """Ask under one id, and again under the same where Redis was away: it is queued once."""
    request_id = str(uuid.uuid4())
    return await retry_until_up(client.store.store.commands, lambda: ask(request_id), request.left)


async def _collect(client: Client, payload: Any, deadline: float, request_id: str) -> list[Any]:
    context = Context(request_id, deadline=deadline)
    return [value async for value in client.static(payload, context=context)]


async def _begin(client: Client, payload: Any, request_id: str) -> tuple[list[Any], RemoteCall]:
    """A call and its first value, if there is one."""
    call = client.static(payload, context=Context(request_id))
    try:
        return [await anext(call)], call
    except StopAsyncIteration:
        return [], call


async def _stream(request: ServiceRequest, client: Client, payload: Any) -> None:
    """The first value answers the call; the rest goes to the reader as it takes it."""
    async with asyncio.timeout(request.left):
        first, call = await _persist(request, client, partial(_begin, client, payload))
    stream = ValueStream()
    feed = stream.feed
    request.response_queue.put(ServiceResponse(True, stream, None, 0.0, request.request_id))
    del stream
    try:
        await feed(first, call)
    finally:
        await call.aclose()


def _failure(request: ServiceRequest, exc: Exception) -> ServiceResponse:
    """The response for a call that failed; the type of what the service raised is known by name."""
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
