"""Asking a server until it answers."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from dynamo_tasks.errors import ServerRefusedError, ServerUnavailableError
from dynamo_tasks.observe.log import event
from dynamo_tasks.observe.throttle import LogThrottle
from dynamo_tasks.protocol.jitter import jittered
from dynamo_tasks.store.redis.connection import Link

__all__ = ["retry_at_start", "retry_first", "retry_until_up"]

T = TypeVar("T")
_RETRY = 0.1
_START_RETRY = 0.5
_FIRST_DELAY, _MAX_DELAY = 0.05, 0.5


async def retry_until_up(commands: Link, ask: Callable[[], Awaitable[T]], within: float = math.inf) -> T:
    """Ask Redis until it answers: an outage must not end what lasts as long as a job.

    Args:
        commands: The connection; once that is closed for good, nobody answers any more.
        ask: What is safe to ask again.
        within: Seconds after which the error goes through.

    Raises:
        ServerUnavailableError: it has not answered in time, or the connection was closed.
    """
    until = time.monotonic() + within
    while True:
        try:
            return await ask()
        except ServerUnavailableError:
            if commands.closed or time.monotonic() >= until:
                raise
            await asyncio.sleep(_RETRY)


async def retry_first(ask: Callable[[], Awaitable[T]], within: float) -> T:
    """Ask Redis for the first time, again and again where it is away or refuses for the moment.

    Args:
        ask: What is safe to ask again.
        within: Seconds after which the error goes through; what is asked by then may take its own time.

    Raises:
        ServerUnavailableError: it has not answered in time.
    """
    until, delay, failures = time.monotonic() + within, _FIRST_DELAY, LogThrottle()
    while True:
        try:
            return await ask()
        except ServerUnavailableError as exc:
            if time.monotonic() + delay >= until:
                raise
            if failures.due():
                event("store.reconnect_failed", connection="first", server="", error=exc.message)
        await asyncio.sleep(jittered(delay))
        delay = min(2 * delay, _MAX_DELAY)


async def retry_at_start(ask: Callable[[], Awaitable[T]], *, away: bool) -> T:
    """Ask a server while a process starts: one that refuses for the moment is waited for.

    Args:
        ask: What is safe to ask again.
        away: Whether to wait for one that cannot be reached, too.

    Raises:
        ServerUnavailableError: it cannot be reached.
    """
    failures = LogThrottle()
    while True:
        try:
            return await ask()
        except ServerUnavailableError as exc:
            if not (away or isinstance(exc, ServerRefusedError)):
                raise
            if failures.due():
                event("store.reconnect_failed", connection="start", server="", error=exc.message)
            await asyncio.sleep(_START_RETRY)
