"""Actors: tasks in the background of a process, for as long as it serves."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Protocol

__all__ = ["Actor", "Actors", "Startable"]


class Startable(Protocol):
    """Something with a start and a stop that both tolerate a second call."""

    async def start(self) -> None:
        """Begin."""

    async def stop(self) -> None:
        """End, also where the start was given up half-way."""


class Actor(ABC):
    """One background task, which is :class:`Startable`."""

    name: str
    """Name of the task."""

    _task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin; a second call does nothing."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=self.name)

    async def stop(self) -> None:
        """End; idempotent."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    @abstractmethod
    async def _run(self) -> None:
        """Do its work, until it is cancelled."""


class Actors:
    """All that was started in a process, one after the other; it is stopped in the reverse order."""

    def __init__(self) -> None:
        self._started = contextlib.AsyncExitStack()

    async def start(self, *actors: Startable) -> None:
        """Start these, in this order."""
        for actor in actors:
            self.also(actor.stop)  # before: a start may be given up half-way
            await actor.start()

    def also(self, stop: Callable[[], Awaitable[None]]) -> None:
        """Call this in its turn, when all are stopped."""
        self._started.push_async_callback(stop)

    async def stop(self) -> None:
        """Stop them all, also where one raises; idempotent."""
        await self._started.aclose()
