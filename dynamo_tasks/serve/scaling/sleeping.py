"""The sleep of processes whose component waits for its turn on a shared device: their engines' memory is free then."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from dynamo_tasks.errors import DynamoError
from dynamo_tasks.observe.log import event
from dynamo_tasks.serve.processes.process import ManagedProcess

__all__ = ["Command", "Sleeping"]

Command = Callable[[int, str, Mapping[str, Any], float], Awaitable[str]]
"""Sends a command to an instance: lease, name, arguments, seconds for the answer; gives its state then."""

_REQUEUE_S = 15.0
_CHANGE_S = 120.0
"""Most seconds that an engine has to fall asleep, or to wake; a process that takes longer is ended."""


class Sleeping:
    """Puts processes of one component to sleep and wakes them.

    Args:
        level: How deep; 0 = not at all.
        drain: Seconds that running requests have before.
        command: Sends a command to an instance.
        start: Seconds that a start may take; falling asleep and waking take no longer, and two minutes at most.

    Attributes:
        asleep: Those that have said so.
        trouble: What one could not do, until the next one can, or is started; for people.
    """

    def __init__(self, level: int, drain: float, command: Command, start: float):
        self.asleep: set[ManagedProcess] = set()
        self.trouble = ""
        self._level = level
        self._drain = drain
        self._command = command
        self._limit = min(start or _CHANGE_S, _CHANGE_S)
        self._changing: dict[ManagedProcess, asyncio.Task[None]] = {}
        self._failed: set[ManagedProcess] = set()

    def can(self, process: ManagedProcess) -> bool:
        """Return whether it may be put to sleep, as far as is known before it was tried."""
        return self._level > 0 and process not in self._failed

    def changes(self, process: ManagedProcess) -> bool:
        """Return whether it is about to fall asleep, or to wake."""
        return process in self._changing

    def failed(self, process: ManagedProcess) -> bool:
        """Return whether it could not, and has to end instead."""
        return process in self._failed

    def rest(self, process: ManagedProcess, lease: int) -> None:
        """Begin to put it to sleep: what it runs ends first, or is requeued."""
        # One that dies from now on must not come back by itself: it would take a device that is another one's by then.
        process.returns = False
        self._begin(process, self._rest(process, lease))

    def wake(self, process: ManagedProcess, lease: int) -> None:
        """Begin to wake it."""
        self._begin(process, self._wake(process, lease))

    def forget(self, process: ManagedProcess) -> None:
        """It ends."""
        self.asleep.discard(process)
        self._failed.discard(process)
        if task := self._changing.pop(process, None):
            task.cancel()

    async def close(self) -> None:
        """Wait for nothing any more."""
        tasks = [*self._changing.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, process: ManagedProcess, change: Awaitable[None]) -> None:
        self._changing[process] = asyncio.ensure_future(self._change(process, change))

    async def _change(self, process: ManagedProcess, change: Awaitable[None]) -> None:
        try:
            await change
            self.trouble = ""
        except DynamoError as error:
            event("scale.no_sleep", process=process.spec.name, error=error.message)
            self._failed.add(process)
            self.trouble = f"{process.spec.name} could not sleep, or not wake: {error.message}"
            self.asleep.discard(process)
        self._changing.pop(process, None)

    async def _rest(self, process: ManagedProcess, lease: int) -> None:
        arguments = {"level": self._level, "drain": self._drain}
        await self._command(lease, "sleep", arguments, self._drain + _REQUEUE_S + self._limit)
        self.asleep.add(process)

    async def _wake(self, process: ManagedProcess, lease: int) -> None:
        # From here on it may hold memory.
        self.asleep.discard(process)
        await self._command(lease, "wake", {}, self._limit)
        process.returns = True
