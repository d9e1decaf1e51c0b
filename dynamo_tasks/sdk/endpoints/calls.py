"""Direct calls of a service in the same process, in the shape of calls through the queue."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Generator
from typing import TYPE_CHECKING, Any

from dynamo_tasks.errors import RequestCancelledError
from dynamo_tasks.sdk.endpoints.endpoint import DynamoEndpoint
from dynamo_tasks.sdk.endpoints.payloads import give_plain

if TYPE_CHECKING:
    from dynamo_tasks.sdk.context import Context
    from dynamo_tasks.sdk.services.service import DynamoService

__all__ = ["Call", "LocalClient", "LocalEndpoint"]


class Call:
    """One call of an endpoint: iterate over its values, or await it. It starts with the first of these.

    ``async for`` gives the yielded values (of a coroutine or function: the one value that it returns).
    ``await`` gives what it returns; of a generator its aggregate, or the list of its values. Of a call made
    with ``client.generate(x)``, ``await`` gives the call itself, to be iterated over.

    Errors come out of the iteration or the await: ``InvalidRequestError`` for a bad request, else what the
    endpoint raises.
    """

    def __init__(
        self,
        endpoint: DynamoEndpoint,
        instance: object,
        payload: Any,
        *,
        streaming: bool = False,
        context: Context | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._instance = instance
        self._payload = payload
        self._streaming = streaming
        self._context = context
        self._source: AsyncIterator[Any] | None = None

    def __aiter__(self) -> Call:
        return self

    async def __anext__(self) -> Any:
        if self._source is None:
            # Not needed to declare services: keeps the import of the sdk light.
            from dynamo_tasks.sdk.endpoints.handler import open_values

            self._source = open_values(self._endpoint, self._instance, self._payload)
        if self._context is not None and self._context.is_stopped:
            await self.aclose()
            if self._context.is_killed:
                raise RequestCancelledError("the context of the call was killed")
            raise StopAsyncIteration
        return give_plain(await self._source.__anext__(), self._endpoint)

    def __await__(self) -> Generator[Any, None, Any]:
        return (self._itself() if self._streaming else self.result()).__await__()

    async def _itself(self) -> Call:
        return self

    async def result(self) -> Any:
        """Run to the end and return the value, the aggregate, or the list of values."""
        if not self._endpoint.is_stream:
            return await anext(self)
        from dynamo_tasks.sdk.endpoints.handler import new_aggregate  # as above

        whole = new_aggregate(self._endpoint)
        async for value in self:
            whole.add(value)
        return whole.result()

    async def aclose(self) -> None:
        """Stop it where it stands; a second call does nothing."""
        if self._source is None:
            self._source = _nothing()
        await self._source.aclose()  # type: ignore[attr-defined]


async def _nothing() -> AsyncIterator[Any]:
    nothing: tuple[Any, ...] = ()
    for value in nothing:
        yield value


class LocalEndpoint:
    """An endpoint of an instance in this process; called like a client of a remote one.

    There is one instance, so all choices of one (``random``, ``direct``, …) mean it.
    """

    def __init__(self, endpoint: DynamoEndpoint, instance: object) -> None:
        self.endpoint = endpoint
        self._instance = instance

    @property
    def name(self) -> str:
        """The endpoint's name."""
        return self.endpoint.name

    def __call__(self, request: Any = None, *, context: Context | None = None) -> Call:
        """Call it; ``await`` gives the result."""
        return Call(self.endpoint, self._instance, request, context=context)

    def generate(self, request: Any = None, *, context: Context | None = None) -> Call:
        """Call it; can be iterated directly and after ``await``. Stops where ``context`` is stopped."""
        return Call(self.endpoint, self._instance, request, streaming=True, context=context)

    random = round_robin = power_of_two = least_loaded = static = generate

    def kv(
        self, request: Any = None, *, session: str = "", context: Context | None = None, **parameters: Any
    ) -> Call:
        """Call it; there is nothing to choose."""
        return self.generate(request, context=context)

    def direct(self, request: Any, instance_id: int | str, *, context: Context | None = None) -> Call:
        """Call it; ``instance_id`` can only mean this one."""
        return self.generate(request, context=context)


class LocalClient:
    """The client that ``depends()`` gives for a service in this process: one attribute per endpoint.

    A plain service (no component) also shows its other methods and attributes as they are.
    """

    def __init__(self, service: DynamoService[Any], instance: object) -> None:
        self._service = service
        self._instance = instance

    def __repr__(self) -> str:
        return f"<LocalClient of {self._service.name}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        plain = not self._service.is_dynamo_component() and hasattr(self._instance, name)
        if plain and not isinstance(inspect.getattr_static(self._service.inner, name, None), DynamoEndpoint):
            return getattr(self._instance, name)
        found = self.__dict__[name] = LocalEndpoint(self._service.find_endpoint(name), self._instance)
        return found

    async def get_endpoint(self, name: str) -> LocalEndpoint:
        """One endpoint by its name.

        Raises:
            UnknownEndpointError: there is none; lists those that are there.
        """
        return LocalEndpoint(self._service.find_endpoint(name), self._instance)
