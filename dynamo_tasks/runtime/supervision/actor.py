"""Actors: tasks in the background of a process, for as long as it serves."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from typing import ClassVar

__all__ = ["Actor"]


class Actor(ABC):
    """One background task with a start and a stop that both tolerate a second call."""

    name: ClassVar[str]
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
