"""Stopping an endpoint: throwing an exception of our choice into a running asyncio task."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any, Generic, TypeVar

from dynamo_tasks.errors import EndpointError
from dynamo_tasks.sdk.endpoints.handler import named

__all__ = ["Interruptible", "Stop", "named"]

T = TypeVar("T")


class Stop(BaseException):
    """Raised inside an endpoint to stop it; ``reason`` says why.

    Attributes:
        reason: ``abort`` (ended or fenced by others: write nothing), ``cancel`` (we end it), ``deadline``,
            ``time_limit``, ``requeue`` (the worker ends, or sleeps), or ``preempt`` (released for others).
    """

    def __init__(self, reason: str, message: str = ""):
        super().__init__(message or reason)
        self.reason = reason


class Interruptible(Generic[T]):
    """Runs a coroutine as a task that can be interrupted with any exception, not only ``CancelledError``.

    Celery's soft time limit is an exception that the task's own code may catch to clean up; asyncio can
    only cancel. So the task is cancelled, and the cancellation is exchanged on its way in.

    Some exceptions mean more to asyncio than to the coroutine that lets them out, and come out as ``EndpointError``:
    ``SystemExit``, ``KeyboardInterrupt``, and a ``CancelledError`` of something that it waited for.
    """

    def __init__(self, coro: Coroutine[Any, Any, T]):
        self._coro = coro
        self._exchange: BaseException | None = None
        self._started = False
        self.task: asyncio.Task[T] = asyncio.create_task(self._main())

    def interrupt(self, exc: BaseException) -> None:
        """Raise ``exc`` inside the coroutine, at the place where it waits; before its first step, instead of that."""
        if not self.task.done():
            self._exchange = exc
            if self._started:
                self.task.cancel()

    async def _main(self) -> T:
        # A task that is cancelled before its first step never runs, and nothing could be exchanged.
        self._started = True
        try:
            if self._exchange is not None:
                exc, self._exchange = self._exchange, None
                raise exc
            return await _Exchanging(self._coro, self)
        except asyncio.CancelledError as exc:
            if not self._is_cancelled():
                raise EndpointError("the endpoint raised CancelledError, but nobody cancelled it") from exc
            raise
        except (SystemExit, KeyboardInterrupt) as exc:
            # It would end the process, and with it all requests beside this one.
            raise EndpointError(f"the endpoint raised {named(exc)}") from exc
        finally:
            self._coro.close()

    def _is_cancelled(self) -> bool:
        """Return whether it was cancelled itself, and not something that it waited for."""
        return self.task.cancelling() > 0

    def take(self, exc: BaseException) -> BaseException:
        """The exception to raise inside in place of ``exc``."""
        if isinstance(exc, asyncio.CancelledError) and self._exchange is not None:
            exc, self._exchange = self._exchange, None
            self.task.uncancel()
        return exc


class _Exchanging(Generic[T]):
    """Drives a coroutine by hand, so that what is thrown in can be exchanged."""

    def __init__(self, coro: Coroutine[Any, Any, T], owner: Interruptible[T]):
        self._coro = coro
        self._owner = owner

    def __await__(self) -> Generator[Any, Any, T]:
        try:
            waits_for = self._coro.send(None)
            while True:
                try:
                    value = yield waits_for
                except BaseException as exc:  # noqa: BLE001 - raised by who waits, whatever it is
                    waits_for = self._coro.throw(self._owner.take(exc))
                else:
                    waits_for = self._coro.send(value)
        except StopIteration as stop:
            result: T = stop.value
            return result
