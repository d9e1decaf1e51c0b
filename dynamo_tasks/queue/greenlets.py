"""Synchronous code on the event loop: it runs in a greenlet, and switches to the loop to await.

Celery's worker, its consumer loop and its tracer are synchronous. Here they run in greenlets on the
thread of the asyncio loop: where they would block, :func:`await_` suspends the greenlet, the loop goes
on, and the greenlet is resumed with the result. So signals, results, retries and links work as Celery
wrote them, without a thread per request and without two threads that fight over the GIL.
"""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from greenlet import getcurrent, greenlet

__all__ = ["await_", "in_greenlet", "run"]

T = TypeVar("T")


class _Hosted(greenlet):  # type: ignore[misc]
    """A greenlet whose parent drives it on the loop."""


def in_greenlet() -> bool:
    """Whether the caller may use :func:`await_`."""
    return isinstance(getcurrent(), _Hosted)


def await_(awaitable: Awaitable[T]) -> T:
    """Suspend the current greenlet until ``awaitable`` is done, and return its result.

    Raises:
        RuntimeError: not called inside :func:`run`.
    """
    current = getcurrent()
    if not isinstance(current, _Hosted) or current.parent is None:
        raise RuntimeError("await_() needs a greenlet started by run()")
    result: T = current.parent.switch(awaitable)
    return result


async def run(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Run a synchronous function in a greenlet of its own; its :func:`await_` calls run here.

    Cancelling the task that awaits this raises ``CancelledError`` inside the function, at its ``await_``.
    """
    hosted = _Hosted(function)
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
    result: T = pending
    return result
