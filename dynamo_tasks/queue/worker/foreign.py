"""Code that is neither Celery's nor ours, around an endpoint in a worker: it runs in threads.

An application may have receivers of signals, a result backend, hooks of tasks, a loader: all of them may block, and
some (Django's database) refuse to run where an event loop does. As soon as there is any of it, Celery's tracer of a
request runs in a thread from its first to its last step, so that what belongs to a thread (a connection to a database,
``current_task``) is the same in all of them; the endpoint itself runs on the loop all the same. Celery's links and
chords count as such code, since publishing waits for the broker. Where there is none of it, nothing is paid for that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, TypeVar

from celery import signals
from celery.loaders.base import BaseLoader
from celery.utils.dispatch import Signal

from dynamo_tasks.queue.greenlets import Aside, await_, may_await, run

__all__ = ["HOOKS", "LINKS", "SIGNALS", "has_loader_hooks", "run_foreign", "run_signals_aside", "threads"]

T = TypeVar("T")
_log = logging.getLogger("celery.utils.dispatch.signal")

HOOKS = ("__call__", "before_start", "on_success", "on_failure", "on_retry", "after_return")
"""Methods of a task that Celery calls around its body."""
SIGNALS = (
    signals.task_prerun, signals.task_postrun, signals.task_success, signals.task_failure, signals.task_retry,
    signals.task_internal_error, signals.before_task_publish, signals.after_task_publish, signals.task_sent,
)  # fmt: skip
"""Signals that Celery's tracer sends, and those of publishing inside of it."""
LINKS = ("callbacks", "errbacks", "chain", "chord")
_LOADER_HOOKS = ("on_task_init", "on_process_cleanup")
_MOST = 100_000
"""Threads; a worker's slots bound them."""
_IN_HANDLER = frozenset({signals.worker_shutting_down})
"""Sent by a signal handler, which may have interrupted anything: a thread can't be asked for from there."""


@cache
def threads() -> ThreadPoolExecutor:
    """The threads of this process for such code."""
    return ThreadPoolExecutor(_MOST, thread_name_prefix="dynamo-celery")


def has_loader_hooks(loader: Any) -> bool:
    """Return whether a loader has code of its own around each task."""
    return any(getattr(type(loader), name) is not getattr(BaseLoader, name) for name in _LOADER_HOOKS)


async def run_foreign(task: Any, function: Callable[..., T], *args: Any) -> T:
    """Run a part of Celery's code around a call of a task, wherever it belongs."""
    if task.has_foreign_code():
        return await Aside(threads()).run(function, *args)
    return await run(function, *args)


def run_signals_aside() -> None:
    """Keep receivers of Celery's signals off the event loop from here on; for a worker of ours.

    The sender waits for them where it can. Elsewhere (a message arrives) they are called in order, later.
    """
    one = ThreadPoolExecutor(1, thread_name_prefix="dynamo-signals")
    for signal in vars(signals).values():
        if isinstance(signal, Signal) and signal not in _IN_HANDLER:
            signal._live_receivers = partial(_receivers, one, signal._live_receivers)


def _receivers(one: ThreadPoolExecutor, live: Callable[[Any], Sequence[Any]], sender: Any) -> list[Any]:
    return [partial(_receive, one, receiver) for receiver in live(sender)]


def _receive(one: ThreadPoolExecutor, receiver: Any, **what: Any) -> Any:
    if asyncio._get_running_loop() is None:
        return receiver(**what)
    call = partial(receiver, **what)
    if may_await():
        return await_(_in(one, call))
    one.submit(_later, receiver, call)
    return None


def _later(receiver: Any, call: Callable[[], Any]) -> None:
    try:
        call()
    except Exception:  # noqa: BLE001 - as Celery's sender, whatever a receiver raises
        _log.exception("Signal handler %r raised", receiver)


async def _in(one: ThreadPoolExecutor, call: Callable[[], Any]) -> Any:
    return await asyncio.get_running_loop().run_in_executor(one, call)
