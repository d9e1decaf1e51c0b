"""kombu's hub, hosted in the asyncio loop.

Celery's consumer loop runs unchanged in a greenlet. It polls for events; here ``poll()`` suspends that
greenlet until a descriptor is readable, a timer is due or a callback was scheduled. After events were
handled the loop ticks once more before it polls again, so BRPOP is re-armed at once.
"""

from __future__ import annotations

import asyncio
import select
import threading
import time
from typing import Any

from kombu.asynchronous.hub import Hub
from kombu.utils.eventio import ERR, READ, WRITE

from dynamo_tasks.queue.greenlets import await_, may_await

__all__ = ["AsyncioHub"]


class _Poller:
    """The part of an epoll object that the hub uses, on ``add_reader``/``add_writer``."""

    def __init__(self) -> None:
        self._flags: dict[int, int] = {}
        self._ready: dict[int, int] = {}
        self._woken: asyncio.Future[None] | None = None
        self._wake_requested = False
        self._failure: Exception | None = None

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        # The hub is made before the loop runs; it is used inside of it only.
        return asyncio.get_running_loop()

    def register(self, fd: Any, flags: int) -> int:
        """Watch a descriptor; replaces what was watched for it."""
        fd = fd if isinstance(fd, int) else fd.fileno()
        if flags & (READ | ERR):
            self._watch(fd)
        if flags & WRITE:
            self._loop.add_writer(fd, self._mark, fd, WRITE)
        self._flags[fd] = flags
        return int(fd)

    def _watch(self, fd: int) -> None:
        try:
            self._loop.add_reader(fd, self._mark, fd, READ)
        except RuntimeError:
            # The socket had an error (a reset, a time-out): uvloop has dropped its handle without a word, and
            # keeps it under the number, which may be another socket's by now.
            self._loop.remove_reader(fd)
            self._loop.add_reader(fd, self._mark, fd, READ)
            if _has_news(fd):
                self._mark(fd, READ)

    def unregister(self, fd: Any) -> None:
        """Stop watching a descriptor."""
        fd = fd if isinstance(fd, int) else fd.fileno()
        if self._flags.pop(fd, None) is None:
            raise KeyError(fd)
        self._loop.remove_reader(fd)
        self._loop.remove_writer(fd)
        self._ready.pop(fd, None)

    def _mark(self, fd: int, flag: int) -> None:
        self._ready[fd] = self._ready.get(fd, 0) | flag
        self.wake()

    def wake(self) -> None:
        """End the current wait, or the next one."""
        self._wake_requested = True
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    def fail(self, exc: Exception) -> None:
        """Raise an error out of the current wait, or the next one."""
        self._failure = exc
        self.wake()

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        """Wait for events, at most ``timeout`` seconds; suspends the calling greenlet."""
        if not self._wake_requested and may_await():
            await_(self._wait(timeout))
        self._wake_requested = False
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        ready, self._ready = self._ready, {}
        return list(ready.items())

    async def _wait(self, timeout: float | None) -> None:
        self._woken = self._loop.create_future()
        timer = None if timeout is None else self._loop.call_later(max(0.0, timeout), self.wake)
        try:
            await self._woken
        finally:
            self._woken = None
            if timer is not None:
                timer.cancel()

    def close(self) -> None:
        """Forget all descriptors."""
        for fd in list(self._flags):
            self.unregister(fd)


def _has_news(fd: int) -> bool:
    """Return whether a descriptor has something to read, be it an error."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


class AsyncioHub(Hub):  # type: ignore[misc]
    """A hub for a worker whose main greenlet runs on the asyncio loop."""

    def __init__(self, timer: Any = None):
        super().__init__(timer)
        # Celery makes the timer, and arms it wherever it is: in callbacks of the loop, in threads, seldom in a tick.
        self._enter, self.timer._enter = self.timer._enter, self._armed

    def _armed(self, eta: float, priority: int, entry: Any) -> Any:
        """A timer was armed; one that is due before all others shortens the wait that is under way."""
        self._enter(eta, priority, entry)
        if self._first() == eta:
            self._interrupt()
        return entry

    def _first(self) -> float | None:
        """Return the due time of the next timer; ``None`` without one."""
        return next((entry.eta for entry in self.timer._queue[:1]), None)

    def _interrupt(self) -> None:
        if threading.get_ident() == self._loop_thread:
            self.wake()
        else:
            super().call_soon(int)  # a no-op: it wakes the loop from another thread

    def call_repeatedly(self, delay: float, callback: Any, *args: Any) -> Any:
        """A timer that comes again and again; one with no time between is off, not due at every tick."""
        entry = super().call_repeatedly(delay, callback, *args)
        if delay <= 0:
            entry.cancel()
        return entry

    def fire_timers(self, *args: Any, **kwargs: Any) -> float:
        """Fire what is due; returns how long to wait. kombu fires ten at once, and lets the eleventh wait a second."""
        delay, first = float(super().fire_timers(*args, **kwargs)), self._first()
        return delay if first is None else min(delay, max(0.0, first - time.monotonic()))

    def _create_poller(self) -> None:
        self._poller = _Poller()
        self._register_fd = self._poller.register
        self._unregister_fd = self._poller.unregister
        if self._waker is not None:
            self._register_fd(self._waker.fileno(), READ)

    def call_soon(self, callback: Any, *args: Any) -> Any:
        """Schedule a callback; callable from the loop's thread and from others."""
        promise = super().call_soon(callback, *args)
        if threading.get_ident() == self._loop_thread:
            self.wake()
        return promise

    def wake(self) -> None:
        """Let the consumer loop tick."""
        if self._poller is not None:
            self._poller.wake()

    def fail(self, exc: Exception) -> None:
        """Raise an error inside the consumer loop, as if one of its own reads had."""
        if self._poller is not None:
            self._poller.fail(exc)

    def run_ready(self) -> None:
        """Run callbacks that nobody will tick for any more, e.g. acks of the last tasks at shutdown."""
        for callback in self._pop_ready():
            callback()
