"""The one bridge from synchronous code to the event loop: a background thread with a loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, TypeVar

__all__ = ["Bridge", "bridge"]

T = TypeVar("T")
_CLOSE_TIMEOUT = 5.0


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
            return future.result(timeout)
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


def bridge() -> Bridge:
    """The bridge of this process."""
    global _bridge
    with _lock:
        if _bridge is None or not _bridge._thread.is_alive():
            _bridge = Bridge()
        return _bridge
