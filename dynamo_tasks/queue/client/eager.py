"""``task_always_eager``: an endpoint runs where it is called, without server and worker, for unit tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextvars import ContextVar
from typing import Any

import msgspec
from celery.result import EagerResult
from kombu.utils import json

from dynamo_tasks.errors import ConfigError, InvalidEventIdError
from dynamo_tasks.protocol.events import End, ErrorInfo
from dynamo_tasks.protocol.plain import NOT_PLAIN
from dynamo_tasks.protocol.states import State
from dynamo_tasks.queue.broker.message import read_plain
from dynamo_tasks.queue.execution.retry import RetryPolicy
from dynamo_tasks.sdk.context import Context, RetryRequested, enter_context
from dynamo_tasks.sdk.endpoints.handler import EndpointHandler
from dynamo_tasks.sdk.endpoints.payloads import give_plain, not_plain
from dynamo_tasks.store.bridge import bridge

__all__ = ["EagerStreamResult", "HandlerFactory", "as_sent", "eager_values", "run_eagerly", "run_handler"]

HandlerFactory = Callable[[Any], Awaitable[EndpointHandler]]
"""Makes the handler of a declared endpoint, with its service in this process."""

eager_values: ContextVar[list[Any] | None] = ContextVar("dynamo_eager_values", default=None)
"""The list for the values that the endpoint yields which runs eagerly in this context."""


class EagerStreamResult(EagerResult):  # type: ignore[misc]
    """Celery's ``EagerResult`` that iterates over the values as a :class:`StreamResult` does."""

    def __init__(self, done: EagerResult, values: list[Any]):
        super().__init__(done.id, done._result, done._state, traceback=done._traceback, name=done._name)
        self._values = values

    def stream(self, after: str | None = None) -> Iterator[Any]:
        """The values, then the error that the request ended with, if any.

        Raises:
            InvalidEventIdError: there is no stream, hence no ``after``.
            RequestFailedError: what the request ended with, after its last value.
        """
        if after is not None:
            raise InvalidEventIdError("a result of task_always_eager has no event ids")
        yield from self._values
        if self.failed():
            End(State.FAILED, "error", error=ErrorInfo.of(self._result)).raise_for_state()

    def __iter__(self) -> Iterator[Any]:
        return self.stream()

    async def astream(self, after: str | None = None) -> AsyncIterator[Any]:
        """The same for asynchronous callers."""
        for value in self.stream(after):
            yield value

    def __aiter__(self) -> AsyncIterator[Any]:
        return self.astream()

    def __await__(self) -> Generator[Any, None, Any]:
        return asyncio.sleep(0, self.get(disable_sync_subtasks=False)).__await__()

    def cancel(self) -> bool:
        """It has ended already: ``False``."""
        return False


def as_sent(args: Any) -> Any:
    """The arguments of a call, through JSON as through a queue."""
    return read_plain(json.dumps(args))


def run_eagerly(make: HandlerFactory, declaration: tuple[Any, ...], context: Context, payload: Any) -> Any:
    """Run an endpoint to its end on the bridge's loop; what it yields goes into :data:`eager_values`.

    Args:
        make: See :data:`HandlerFactory`.
        declaration: The endpoint's, boxed; empty where this process does not have it.
        context: Of the request.
        payload: Its argument.

    Returns:
        What ``get()`` gives.

    Raises:
        ConfigError: this process has only the endpoint's name.
        RetryRequested: it is to be run again.
    """
    if not declaration:
        raise ConfigError(
            f"task_always_eager: {context.endpoint} is known by its name only; import its service, and call that"
        )
    values = eager_values.get()
    assert values is not None
    return bridge().call(_run(make, declaration[0], context, payload, values))


async def _run(make: HandlerFactory, declared: Any, context: Context, payload: Any, values: list[Any]) -> Any:
    return await run_handler(await make(declared), declared, context, payload, values)


async def run_handler(
    handler: EndpointHandler, declared: Any, context: Context, payload: Any, values: list[Any]
) -> Any:
    """Run an endpoint to its end, without queue and stream.

    Args:
        handler: The endpoint's.
        declared: Its declaration.
        context: Of the request.
        payload: Its argument.
        values: Gets what it yields.

    Returns:
        What ``get()`` gives.

    Raises:
        RetryRequested: it is to be run again.
    """
    enter_context(context)
    aggregate = handler.aggregate()
    try:
        async for value in handler.run(payload, []):
            plain = _sendable(give_plain(value, declared), declared)
            aggregate.add(plain)
            values.append(plain)
    except RetryRequested:
        values.clear()
        raise
    except Exception as exc:
        RetryPolicy(handler.options).check(exc, context.retries)
        raise
    if handler.streaming:
        return _sendable(aggregate.result(), declared)
    return values[0] if values else None


def _sendable(value: Any, declared: Any) -> Any:
    """The value, if a queue would take it as well: no half of a surrogate pair, no number of more than 64 bits."""
    try:
        msgspec.msgpack.encode(value)
    except NOT_PLAIN as exc:
        raise not_plain(str(declared), value, exc, streams=declared.is_stream) from exc
    return value
