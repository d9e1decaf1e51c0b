"""An instance on one further lane: its lease and presence there, and what looks after that lane (docs/lanes.md).

Everything is as on the first lane, with the same lease, but nothing waits for it: a lane that is away is joined once
it is there, and messages are taken from it from then on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable

from dynamo_tasks.errors import DynamoError, ServerUnavailableError
from dynamo_tasks.observe.log import event
from dynamo_tasks.protocol.instances import InstanceInfo
from dynamo_tasks.queue.execution.context import LaneContext
from dynamo_tasks.runtime.hosting.registration import Registration
from dynamo_tasks.runtime.supervision.actor import Actors
from dynamo_tasks.runtime.supervision.recoverer import Recoverer
from dynamo_tasks.runtime.supervision.sweeper import Sweeper
from dynamo_tasks.store.redis.retry import retry_until_up

__all__ = ["LaneHost"]

_ANSWER = 2.0
"""Seconds that a lane has to answer what others wait for. One that is away when the instance leaves finds it dead."""


class LaneHost:
    """One further lane of an instance.

    Args:
        lane: What requests of the lane run with.
        register: Makes the instance's registration in a namespace of this lane.
        serves: Whether messages may be taken here at all; a frontend has no right to.
    """

    def __init__(self, lane: LaneContext, register: Callable[[str], Registration], *, serves: bool):
        self._lane = lane
        self._register = register
        self._registrations: dict[str, Registration] = {}
        self._actors = Actors()
        self._helpers = Sweeper(lane.store, erases=serves), Recoverer(lane.store, cuts=serves)
        self._joining: asyncio.Task[None] | None = None

    async def announce(self, namespace: str, infos: Iterable[InstanceInfo]) -> None:
        """Announce these endpoints of a namespace in the place of all others."""
        known = namespace in self._registrations
        found = self._registrations.setdefault(namespace, self._register(namespace))
        # It gets what it could not be given with the next renewal.
        with contextlib.suppress(TimeoutError, ServerUnavailableError):
            async with asyncio.timeout(_ANSWER):
                await found.announce(infos)
        if not known and self._lane.takes:
            await found.start()

    def begin(self) -> None:
        """Join the lane in the background, for as long as that takes."""
        if self._joining is None:
            self._joining = asyncio.create_task(self._join(), name=f"lane-{self._lane.number}")

    async def _join(self) -> None:
        try:
            await self._enter()
        except DynamoError as exc:
            if not self._lane.store.commands.closed:
                event("config.warning", key=f"lane {self._lane.number}", problem=exc.message)

    async def _enter(self) -> None:
        lane, commands = self._lane, self._lane.store.commands
        await retry_until_up(commands, lane.store.check_scripts)
        await retry_until_up(commands, lane.writer.start)
        await self._actors.start(*self._helpers)
        for registration in list(self._registrations.values()):
            await registration.start()
        self._takes(bool(self._registrations))

    def _takes(self, takes: bool) -> None:
        self._lane.takes = takes
        self._lane.on_takes()

    async def deregister(self) -> None:
        """Leave the lane's registry; what runs goes on."""
        self._takes(False)
        if self._joining is not None:
            self._joining.cancel()
        await self._leave(Registration.deregister)

    async def stop(self) -> None:
        """Revoke the lease there."""
        await self._actors.stop()
        await self._leave(Registration.stop)

    async def _leave(self, how: Callable[[Registration], object]) -> None:
        for registration in list(self._registrations.values()):
            with contextlib.suppress(TimeoutError, DynamoError):
                async with asyncio.timeout(_ANSWER):
                    await how(registration)  # type: ignore[misc]
