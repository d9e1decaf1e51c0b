"""An instance that sleeps: it takes no requests, its model is not listed, and its engine has given memory back.

::

    awake ── sleep ─▶ draining ─▶ asleep ── wake ─▶ awake
                         └── the engine cannot ──────▲

The order is what loses nothing: out of the registry and off the queues first, then what runs ends (or goes to
other instances), then the engine sleeps; and the other way round. It keeps its lease, and one registration
that serves nothing, so that it can be seen and woken.

Commands come on the alive channel, not through a queue: one that sleeps takes nothing from queues.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import msgspec

from dynamo_tasks.errors import InvalidRequestError, UnavailableError
from dynamo_tasks.queue.broker.consumer_gate import ConsumerGate
from dynamo_tasks.runtime.hosting.lifecycle import InstanceState, Lifecycle

__all__ = ["SleepCommand", "SleepController"]

_LOOK_SECONDS = 0.5
"""Seconds until it is looked at again what uses spare capacity: some had not begun before."""
_REQUEUE_SECONDS = 10.0
"""Seconds that requests may take to be requeued."""


class SleepCommand(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A command to sleep.

    Attributes:
        level: 1 = weights go to the host's memory, 2 = they are dropped and loaded anew; the KV cache is
            dropped in both.
        drain: Seconds that running requests have; what runs then is requeued for other instances. What uses spare
            capacity is requeued at once, where it can be continued.
    """

    level: int = 1
    drain: float = 30.0


class Sleeper(Protocol):
    """A service that can sleep."""

    def check_sleep(self, level: int) -> None:
        """Refuse what it cannot do, before anything happens."""

    async def sleep(self, level: int) -> None:
        """Give memory back; nothing runs."""

    async def wake_up(self) -> None:
        """Be able to serve again."""


class Pool(Protocol):
    """The pool that runs requests."""

    async def drain(self, timeout: float | None = None) -> bool:
        """Wait until no request runs."""

    def requeue_spare(self) -> None:
        """Requeue what uses spare capacity."""

    def requeue_endpoints(self) -> None:
        """Requeue what runs."""


class SleepController:
    """Puts one instance to sleep and wakes it.

    Args:
        lifecycle: State of the instance.
        consumer_gate: Of its worker.
        announce: Lets the registry show its state.
        service: The service; one that cannot sleep lacks the methods of :class:`Sleeper`.
        pool: What runs its requests.
    """

    def __init__(
        self,
        lifecycle: Lifecycle,
        consumer_gate: ConsumerGate,
        announce: Callable[[], Awaitable[None]],
        service: Any,
        pool: Pool,
    ) -> None:
        self._lifecycle = lifecycle
        self._consumer_gate = consumer_gate
        self._announce = announce
        self._service = service
        self._pool = pool
        self._changing = asyncio.Lock()

    async def handle(self, op: str, arguments: Mapping[str, Any]) -> str:
        """Carry out a command: ``sleep`` or ``wake``; gives the state that it is in then.

        Raises:
            DynamoError: it cannot be done, and why; nothing has changed then.
        """
        async with self._changing:
            if op == "sleep":
                await self._sleep(_command(arguments))
            else:
                await self._wake()
        return "asleep" if self._sleeps() else "awake"

    def _sleeps(self) -> bool:
        return self._lifecycle.state is InstanceState.ASLEEP

    async def _sleep(self, command: SleepCommand) -> None:
        if self._sleeps():
            return
        if not hasattr(self._service, "check_sleep"):
            raise InvalidRequestError(f"{self._lifecycle.component} has nothing that could sleep")
        service: Sleeper = self._service
        service.check_sleep(command.level)
        # What it cannot do was refused by now. From here on whatever goes wrong brings it back.
        await self._leave(command.level)
        try:
            await self._end_requests(command.drain)
            if not self._sleeps():
                raise UnavailableError("it is going down")
            await service.sleep(command.level)
        except BaseException:
            await self._return("it could not sleep")
            raise

    async def _leave(self, level: int) -> None:
        self._lifecycle.advance(InstanceState.ASLEEP, f"it was asked to sleep, level {level}")
        self._consumer_gate.pause()
        await self._announce()

    async def _end_requests(self, seconds: float) -> None:
        # Batches have time: nobody waits for a device until they are through.
        self._pool.requeue_spare()
        ends = time.monotonic() + seconds
        while not await self._pool.drain(min(_LOOK_SECONDS, max(0.0, ends - time.monotonic()))):
            if time.monotonic() >= ends:
                break
            self._pool.requeue_spare()
        else:
            return
        self._pool.requeue_endpoints()
        if not await self._pool.drain(_REQUEUE_SECONDS):
            raise UnavailableError("requests that cannot be stopped still run: it cannot sleep now")

    async def _wake(self) -> None:
        if self._sleeps():
            await self._service.wake_up()
            await self._return("it was woken")

    async def _return(self, reason: str) -> None:
        if not self._sleeps():  # it was asked to end meanwhile
            return
        self._lifecycle.advance(InstanceState.RUNNING, reason)
        await self._announce()
        self._consumer_gate.resume()


def _command(arguments: Mapping[str, Any]) -> SleepCommand:
    try:
        return msgspec.convert(dict(arguments), SleepCommand)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(f"sleep: {error}") from error
