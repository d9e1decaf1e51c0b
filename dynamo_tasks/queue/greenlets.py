"""Code of others on the event loop: synchronous code in greenlets, coroutines that can be interrupted.

Celery's worker, its consumer loop and its tracer are synchronous. Here they run in greenlets on the
thread of the asyncio loop: where they would block, :func:`await_` suspends the greenlet, the loop goes
on, and the greenlet is resumed with the result. So signals, results, retries and links work as Celery
wrote them, without a thread per request and without two threads that fight over the GIL.

Code that is neither Celery's nor ours may block in any place. With it, the same function runs in a thread
(:class:`Aside`), whose :func:`await_` waits for the loop.

An endpoint is stopped by throwing an exception of our choice into its task (:class:`Interruptible`).
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import CancelledError, Executor, Future
from typing import Any, Generic, TypeVar

from greenlet import getcurrent, greenlet

from dynamo_tasks.errors import EndpointError
from dynamo_tasks.sdk.endpoints.handler import named

__all__ = ["Aside", "Interruptible", "await_", "may_await", "on_loop", "run", "run_yielding", "yields"]

T = TypeVar("T")


class _Hosted(greenlet):  # type: ignore[misc]
    """A greenlet whose parent drives it on the loop."""

    yields = False


class _Thread(threading.local):
    aside: Aside | None = None


_thread = _Thread()


def on_loop() -> bool:
    """Return whether the caller runs in a greenlet on the loop, so that blocking would hold up the loop."""
    return isinstance(getcurrent(), _Hosted)


def yields() -> bool:
    """Return whether the caller runs in a greenlet of :func:`run_yielding`."""
    return getattr(getcurrent(), "yields", False)


def may_await() -> bool:
    """Return whether the caller may use :func:`await_`."""
    return on_loop() or _thread.aside is not None


def await_(awaitable: Coroutine[Any, Any, T]) -> T:
    """Suspend the current greenlet, or thread, until ``awaitable`` is done, and return its result.

    Raises:
        RuntimeError: not called inside :func:`run` or :meth:`Aside.run`.
    """
    current = getcurrent()
    if isinstance(current, _Hosted) and current.parent is not None:
        result: T = current.parent.switch(awaitable)
        return result
    if _thread.aside is None:
        raise RuntimeError("await_() needs a greenlet started by run(), or a thread of an Aside")
    return _thread.aside.wait_for(awaitable)


async def run(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Run a synchronous function in a greenlet of its own; its :func:`await_` calls run here.

    Cancelling the task that awaits this raises ``CancelledError`` inside the function, at its ``await_``.
    """
    result: T = await _drive(_Hosted(function), *args, **kwargs)
    return result


async def run_yielding(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Run a function that holds nothing that others on the loop block for, such as a producer of a pool.

    As :func:`run`; its questions to the broker do not hold up the loop.
    """
    hosted = _Hosted(function)
    hosted.yields = True
    result: T = await _drive(hosted, *args, **kwargs)
    return result


async def _drive(hosted: _Hosted, *args: Any, **kwargs: Any) -> Any:
    hosted.gr_context = contextvars.copy_context()
    pending = hosted.switch(*args, **kwargs)
    while not hosted.dead:
        try:
            value = await pending
        except BaseException as exc:  # noqa: BLE001 - everything belongs to the function, cancellation too
            # With its traceback: without, the lines of the code that failed would be lost.
            pending = hosted.throw(type(exc), exc, exc.__traceback__)
        else:
            pending = hosted.switch(value)
    return pending


class Aside:
    """Runs a synchronous function in a thread; its :func:`await_` calls run on the loop where it was made.

    Args:
        threads: Where it finds one.
    """

    def __init__(self, threads: Executor):
        self._threads = threads
        self._loop = asyncio.get_running_loop()
        self._step: Future[Any] | None = None
        self._is_cancelled = False

    @property
    def waits(self) -> bool:
        """``True`` while the function waits for the loop, so that cancelling it has an effect at once."""
        return self._step is not None

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Run it; cancelling the task that awaits this raises ``CancelledError`` inside, at its ``await_``."""
        call = contextvars.copy_context().run
        done = self._loop.run_in_executor(self._threads, call, self._main, function, *args)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            self._is_cancelled = True
            if self._step is not None:
                self._step.cancel()
            return await done

    def _main(self, function: Callable[..., T], *args: Any) -> T:
        _thread.aside = self
        try:
            return function(*args)
        finally:
            _thread.aside = None

    def wait_for(self, awaitable: Coroutine[Any, Any, T]) -> T:
        """Wait in the function's thread until the loop has run this."""
        step = self._step = asyncio.run_coroutine_threadsafe(awaitable, self._loop)
        try:
            if self._is_cancelled:
                step.cancel()
            result: T = step.result()
            return result
        except CancelledError:
            raise asyncio.CancelledError from None
        finally:
            self._step = None


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
