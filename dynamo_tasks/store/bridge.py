"""The one bridge from synchronous code to the event loop: a background thread with a loop of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, TypeVar

__all__ = ["Bridge", "bridge", "in_thread", "loop_factory"]

T = TypeVar("T")
_CLOSE_TIMEOUT = 5.0
_SLICE = 1.0


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return the event loop factory of a process that serves: uvloop's where it is installed, else ``None``
    (asyncio's own)."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


class Bridge:
    """Runs coroutines for synchronous callers, from any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="dynamo-bridge", daemon=True)
        self._thread.start()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that everything runs on."""
        return self._loop

    def call(self, coro: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run a coroutine and return its result.

        Raises:
            TimeoutError: it took longer than ``timeout`` seconds; it is cancelled.
            RuntimeError: called on the bridge's own loop.
        """
        if threading.current_thread() is self._thread:
            coro.close()
            raise RuntimeError("a synchronous call inside the event loop would wait for itself; use await")
        future = asyncio.run_coroutine_threadsafe(coro, self._loop)
        try:
            return _wait(future, timeout)
        except BaseException:
            future.cancel()
            raise

    def iterate(self, source: AsyncIterator[T]) -> Iterator[T]:
        """Iterate over an asynchronous iterator."""
        try:
            while True:
                try:
                    yield self.call(_next(source))
                except StopAsyncIteration:
                    return
        finally:
            # At the end of the interpreter the loop's thread is gone: nobody would answer.
            if not sys.is_finalizing():
                with contextlib.suppress(TimeoutError):
                    self.call(_close(source), _CLOSE_TIMEOUT)


def _wait(future: concurrent.futures.Future[T], timeout: float | None) -> T:
    """The result, waited for in slices.

    A signal that another thread received, or that came just before the wait, does not end a wait on a
    lock: Ctrl-C is noticed between two slices.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        left = _SLICE if deadline is None else min(_SLICE, deadline - time.monotonic())
        try:
            return future.result(max(left, 0))
        except TimeoutError:
            if future.done():  # the time-out was the coroutine's own, or it ended just after the slice
                return future.result()
            if deadline is not None and time.monotonic() >= deadline:
                raise


async def _next(source: AsyncIterator[T]) -> T:
    return await source.__anext__()


async def _close(source: AsyncIterator[Any]) -> None:
    """Close a generator; one whose last step was interrupted is still on its way out."""
    close = getattr(source, "aclose", None)
    while close is not None:
        try:
            await close()
            return
        except RuntimeError:
            await asyncio.sleep(0.01)


_lock = threading.Lock()
_bridge: Bridge | None = None
_inherited: list[Bridge | None] = []


def _forked() -> None:
    """The thread is not in a forked child; its loop is kept there untouched, since its parent uses it."""
    global _lock, _bridge
    _lock = threading.Lock()
    _inherited.append(_bridge)
    _bridge = None


os.register_at_fork(after_in_child=_forked)


def bridge() -> Bridge:
    """The bridge of this process."""
    global _bridge
    with _lock:
        if _bridge is None or not _bridge._thread.is_alive():
            _bridge = Bridge()
        return _bridge


async def in_thread(call: Callable[[threading.Event], T]) -> T:
    """Call a function in a thread of its own: those of a pool may all be busy with something that takes long.

    Args:
        call: Gets an event that is set once nobody waits for it any more.
    """
    loop, given_up = asyncio.get_running_loop(), threading.Event()
    future: asyncio.Future[T] = loop.create_future()

    def settle(how: Callable[[Any], None], value: Any) -> None:
        if not future.done():
            how(value)

    def run() -> None:
        outcome: tuple[Callable[[Any], None], Any]
        try:
            outcome = future.set_result, call(given_up)
        except StopIteration as exc:  # no future can hold one
            outcome = future.set_exception, RuntimeError(f"the endpoint raised StopIteration: {exc}")
        except BaseException as exc:  # noqa: BLE001 - it is raised where the result is awaited
            outcome = future.set_exception, exc
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True).start()
    try:
        return await future
    finally:
        given_up.set()
