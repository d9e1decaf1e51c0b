"""An endpoint at work: the one argument that it takes, the values that it gives, and the one result of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from inspect import Parameter
from typing import Any, Protocol

from dynamo_tasks.errors import EndpointError, InvalidRequestError
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.protocol.tokens import CompletionAggregate, TokenDelta
from dynamo_tasks.sdk.context import current_context
from dynamo_tasks.sdk.endpoints.endpoint import DynamoEndpoint
from dynamo_tasks.sdk.endpoints.payloads import give_plain

__all__ = [
    "Aggregate",
    "EndpointHandler",
    "ListAggregate",
    "named",
    "new_aggregate",
    "open_values",
    "payload_of",
    "positional",
]

_END = object()


class EndpointHandler:
    """A declared endpoint of a live service: what runs when a message for it arrives.

    Args:
        declared: The endpoint.
        instance: The service that has it.

    Attributes:
        streaming: ``True`` for a generator; else it yields exactly one value, its return value.
        policy: The way to go on after an earlier attempt's output: continue, replay, restart or fail.
        options: Of its declaration; among them the errors after which Celery runs it again.
        canary: Payload of a request that shows whether it works; ``None`` = it is not checked.
        used_at: Monotonic time of the last request.
    """

    def __init__(self, declared: DynamoEndpoint, instance: object):
        self.endpoint: EndpointId = declared.id
        self.streaming = declared.is_stream
        self.policy: str = declared.policy
        self.options: Mapping[str, Any] = declared.options
        self.canary = declared.health_check_payload
        self.used_at = time.monotonic()
        self._declared = declared
        self._instance = instance

    def aggregate(self) -> Aggregate:
        """A fresh aggregate for one request."""
        return new_aggregate(self._declared)

    def can_continue(self, payload: Any) -> bool:
        """Return whether a request can be left after any of its values, and gone on with elsewhere."""
        declared = self._declared
        if self.policy != "continue" or declared.kind != "async_gen":
            return False
        return declared.can_continue is None or bool(declared.can_continue(self._instance, payload))

    def run(self, payload: Any, written: list[Any]) -> AsyncIterator[Any]:
        """Serve a request.

        Args:
            payload: The one argument, as it came.
            written: Values of earlier attempts; only with policy ``continue``.
        """
        self.used_at = time.monotonic()
        context = current_context()
        if context is not None:
            context.written = written
        return self._open(payload)

    @cached_property
    def _open(self) -> Callable[[Any], AsyncIterator[Any]]:
        """The endpoint's own method where nothing is to be done with a request before it: no step on the hot path."""
        declared, instance = self._declared, self._instance
        method = declared.direct(instance) if declared.kind == "async_gen" else None
        return partial(open_values, declared, instance) if method is None else method


def positional(name: str, declared: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """Arguments without keywords: the one keyword that an endpoint may have is the name of its argument.

    Args:
        name: Of the task.
        declared: The endpoint; ``None`` where this process knows its name only.
        args: As the caller gave them.
        kwargs: The same.

    Raises:
        InvalidRequestError: a keyword is not the argument's name.
    """
    if not kwargs:
        return tuple(args)
    argument = declared.argument if declared is not None else None
    unknown = sorted(str(key) for key in kwargs if argument is None or key != argument.name)
    if unknown:
        takes = f"one argument, {argument.name!r}" if argument is not None else _takes_nothing(declared)
        raise InvalidRequestError(f"{name} takes {takes}; got the keyword {', '.join(map(repr, unknown))}")
    return (*args, *kwargs.values())


def _takes_nothing(declared: Any) -> str:
    return "no argument" if declared is not None else "one positional argument"


def payload_of(name: str, declared: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The endpoint's one argument. A chain passes the previous result first: mappings are merged, later ones win.

    Raises:
        InvalidRequestError: there are too many, or none for an endpoint that needs one.
    """
    given = positional(name, declared, args, kwargs)
    if declared is not None and declared.argument is None:
        if any(value is not None for value in given):
            raise InvalidRequestError(f"{name} takes no argument")
        return None
    if not given:
        return _nothing(name, declared)
    if len(given) == 1:
        return given[0]
    if all(isinstance(value, dict) for value in given):
        return {key: item for value in given for key, item in value.items()}
    raise InvalidRequestError(f"{name} takes one argument, not {len(given)}")


def _nothing(name: str, declared: Any) -> None:
    """Return ``None`` for an argument that was not given, if it has a default: the function applies that."""
    if declared is not None and declared.argument.default is Parameter.empty:
        raise InvalidRequestError(f"{name} takes one argument, {declared.argument.name!r}: none was given")


def open_values(endpoint: DynamoEndpoint, instance: object, payload: Any) -> AsyncIterator[Any]:
    """Validate a request and start the endpoint; one that is no generator gives the one value it returns.

    Raises:
        InvalidRequestError: the request does not fit the endpoint's annotation.
    """
    request = endpoint.validate(payload) if endpoint.argument is not None else None
    if endpoint.kind == "generator":
        return _threaded(endpoint.call(instance, request))
    if endpoint.kind == "async_gen":
        source: AsyncIterator[Any] = endpoint.call(instance, request)
        return source
    return _once(endpoint, instance, request)


async def _once(endpoint: DynamoEndpoint, instance: object, request: Any) -> AsyncIterator[Any]:
    if endpoint.kind == "coroutine":
        yield await endpoint.call(instance, request)
    else:
        step = asyncio.ensure_future(asyncio.to_thread(_guarded, endpoint.call, instance, request))
        try:
            value = await asyncio.shield(step)
        finally:
            _leave(step)
        yield value


def named(exc: BaseException) -> str:
    """Kind and text of an exception."""
    return f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__


def _guarded(function: Callable[..., Any], *args: Any) -> Any:
    """Call user code in a thread; some exceptions must not come out of it as they are."""
    try:
        return function(*args)
    except (SystemExit, KeyboardInterrupt) as exc:
        # It would end the event loop, and with it all requests beside this one.
        raise EndpointError(f"the endpoint raised {named(exc)}") from exc
    except StopIteration as exc:
        # No future can hold it: a caller that waits would wait for ever.
        raise EndpointError("the endpoint raised StopIteration") from exc


async def _threaded(values: Iterator[Any]) -> AsyncIterator[Any]:
    """Iterate over a plain generator without blocking the loop."""
    step: asyncio.Future[Any] | None = None
    try:
        while True:
            step = asyncio.ensure_future(asyncio.to_thread(_guarded, next, values, _END))
            value = await asyncio.shield(step)
            if value is _END:
                return
            yield value
    finally:
        # a thread cannot be interrupted: the generator is closed after the step that runs
        if step is not None and not step.done():
            step.add_done_callback(lambda done: _close(values, done))
            _leave(step)
        else:
            _close(values, step)


def _leave(step: asyncio.Future[Any]) -> None:
    """Leave a thread that nobody waits for any more; while it runs on, the request's slot stays taken."""
    context = current_context()
    if step.done():
        return
    step.add_done_callback(lambda done: done.cancelled() or done.exception())
    if context is not None:
        context.left_behind(step)


def _close(values: Any, step: asyncio.Future[Any] | None) -> None:
    if step is not None and not step.cancelled():
        step.exception()  # taken note of: nobody waits for it any more
    values.close()


class Aggregate(Protocol):
    """Makes one result of the values of a stream."""

    def add(self, value: Any) -> None:
        """Take the next value: plain data, or a token delta."""

    def result(self) -> Any:
        """The result; plain data."""


class ListAggregate:
    """The default: the list of all values."""

    def __init__(self) -> None:
        self._values: list[Any] = []

    def add(self, value: Any) -> None:
        """Take the next value."""
        self._values.append(value.as_dict() if isinstance(value, TokenDelta) else value)

    def result(self) -> list[Any]:
        """All values."""
        return self._values


class _Users:
    """One that users wrote: it sees values as callers do, and may return what is to be made plain."""

    def __init__(self, made: Aggregate, endpoint: DynamoEndpoint) -> None:
        self._made = made
        self._endpoint = endpoint

    def add(self, value: Any) -> None:
        self._made.add(value.as_dict() if isinstance(value, TokenDelta) else value)

    def result(self) -> Any:
        return give_plain(self._made.result(), self._endpoint)


def new_aggregate(endpoint: DynamoEndpoint) -> Aggregate:
    """A fresh aggregate for one request of an endpoint."""
    if endpoint.aggregate is None:
        return ListAggregate()
    made: Aggregate = endpoint.aggregate()
    # ours takes token deltas as they are: the hot path
    return made if type(made) is CompletionAggregate else _Users(made, endpoint)
