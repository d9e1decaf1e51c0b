"""Takes messages from a worker's queues: one blocking pop in flight, on the event loop.

kombu sends BRPOP, reads one message, notes it as unacknowledged in two commands, and later removes the
note in two more, each time waiting for Redis. Here ``BLMPOP`` takes what is there, up to the number of
free slots, and messages of endpoints are noted nowhere but in the ledger, which knows who owns what.

A pop is never dropped: to stop, Redis is asked to unblock it, which it answers with the pop's own reply.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from kombu.transport import redis as kombu_redis

from dynamo_tasks.errors import DynamoError, ProtocolError
from dynamo_tasks.observe.log import event
from dynamo_tasks.observe.throttle import LogThrottle
from dynamo_tasks.queue import greenlets
from dynamo_tasks.queue.broker.hub import AsyncioHub
from dynamo_tasks.queue.broker.late import LateBinding
from dynamo_tasks.store.queue_keys import PRIORITY_SEPARATOR, PRIORITY_STEPS
from dynamo_tasks.store.redis.address import Address
from dynamo_tasks.store.redis.connection import Link
from dynamo_tasks.store.redis.containment import is_wrong_type, pass_over
from dynamo_tasks.store.redis.refusals import ReplyError
from dynamo_tasks.store.redis.wire import Wire

__all__ = ["Poller", "Puller", "SlotTurns"]

BATCH = 8
"""Most messages of one pop: what gathered while the loop was busy comes at once, and no worker hoards."""
_ALL = max(PRIORITY_STEPS) + 1
"""Above all priority steps."""
_BLOCK = 5
"""Seconds after which an empty pop returns; a connection that stays silent for twice that is dropped."""
_SHORT = 0.03
_CALLS = 10
"""Times that Redis is asked to unblock a pop."""
_RETRY = 0.1
_TURN = 1.0
"""Seconds that a lane has to say what it has, while others wait for their turn."""
_LEFT_OUT = 5.0
"""Seconds for which a key that is no list is left out."""


class SlotTurns(Protocol):
    """The pullers of several lanes, which share one set of slots.

    Attributes:
        lanes: How many there are.
        one: Held by the one that takes for a slot of which there are too few.
    """

    lanes: int
    one: asyncio.Lock

    def served(self, puller: Puller) -> None:
        """It got something: the others come before it the next time."""

    def add(self, lane: int, puller: Puller) -> None:
        """A lane has a puller, in the place of an earlier one."""

    def wake(self) -> None:
        """There may be room: all look."""


class Puller:
    """Pops messages while slots are free.

    Args:
        address: The broker.
        queues: Redis keys of the queues, without priorities; asked before every pop.
        free: Number of free slots; asked before every pop.
        allowance: Where no slot is free: messages that may be taken all the same, and the priority step below which
            their lists must be.
        deliver: Takes messages that came together, and the key of their queue.
        late: Takes requests that wait for late binding, where this worker does; asked before every pop.
        turns: Of the pullers of all lanes, where there are several.
        name: Of its connection; observers cut it when they take the instance for dead, since what a frozen process
            waits for would be popped into its socket.
    """

    def __init__(
        self,
        address: Address,
        *,
        queues: Callable[[], list[str]],
        free: Callable[[], int],
        allowance: Callable[[], tuple[int, int]] = lambda: (0, 0),
        deliver: Callable[[list[bytes], str], Awaitable[None]],
        late: Callable[[], LateBinding | None] = lambda: None,
        turns: SlotTurns | None = None,
        name: str = "dynamo-tasks:consumer",
    ):
        self._queues = queues
        self._free = free
        self._allowance = allowance
        self._deliver = deliver
        self._late = late
        self._turns = turns
        self._link = Link(address, name=name, on_ready=self._identify)
        self._woken = asyncio.Event()
        self.connected = asyncio.Event()
        """Set once it can pop."""
        self._stopping = False
        self._popping = asyncio.Lock()
        self._delivering = asyncio.Lock()
        self._turn = 0
        self._left_out: dict[str, float] = {}
        self.blocked_as: int | None = None
        """Connection id of the pop in flight."""
        self._narrow: tuple[int, int] | None = None
        """The pop in flight: most messages, and the step below which its lists are; ``None`` where a slot was free."""
        self._client_id = 0
        self._task = asyncio.create_task(self._run(), name="puller")

    async def _identify(self, wire: Wire) -> None:
        self._client_id = int(await wire.execute("CLIENT", "ID"))

    def wake(self) -> None:
        """Slots are free, or queues were added: pop, if that does not happen already."""
        self._woken.set()

    async def delivered(self) -> None:
        """Wait for what a pop has brought."""
        async with self._delivering:
            return

    async def _run(self) -> None:
        failures = LogThrottle()
        while not self._stopping:
            await self._woken.wait()
            self._woken.clear()
            try:
                if not self.connected.is_set():
                    await self._link.start()
                    self.connected.set()
                # Asked before each pop: what waits in this process instead of Redis is lost to workers that have room.
                while not self._stopping and (room := self._room())[0]:
                    async with self._popping:
                        wire = await self._link.wire()
                        await (
                            self._pop(wire, *room) if self._turns is None else self._pop_in_turn(wire, *room)
                        )
            except DynamoError as exc:
                if not self.connected.is_set() and failures.due():
                    event(
                        "store.reconnect_failed",
                        connection=self._link.kind,
                        server=str(self._link.address),
                        error=str(exc),
                    )
                # Nobody else does: what it was woken for is not done.
                self._woken.set()
                await asyncio.sleep(_RETRY)
                if is_wrong_type(exc):
                    await self._leave_out_wrong_types()

    def _room(self) -> tuple[int, int]:
        """Return how many messages may be taken, and the priority step below which their lists are."""
        if not self._queues():
            return 0, 0
        free = self._free()
        most, below = (free, _ALL) if free else self._allowance()
        return min(BATCH, most), below

    @property
    def is_outdated(self) -> bool:
        """``True`` if the pop in flight asks for too much, or leaves out lists that it need not."""
        late = self._late()
        if late is not None and late.left_out and late.has_room:
            return True
        if self._narrow is None:
            return False
        most, below = self._room()
        return most < self._narrow[0] or below > self._narrow[1]

    async def _leave_out_wrong_types(self) -> None:
        """Leave out keys that are no list: a single one would keep all other queues from being popped."""
        keys = self._all_keys()
        with contextlib.suppress(DynamoError):
            types = await (await self._link.wire()).pipeline([["TYPE", key] for key in keys])
            again_at = asyncio.get_running_loop().time() + _LEFT_OUT
            for key, kind in zip(keys, types, strict=True):
                if kind not in (b"list", b"none"):
                    self._left_out[key] = again_at
                    pass_over("queue", key, ProtocolError("it is no list, and cannot be a queue"))

    async def _pop_in_turn(self, wire: Wire, count: int, below: int) -> None:
        """Pop for one of several lanes.

        While there are slots for all of them, each pops for itself. Else one after the other looks what it has, so that
        none of them starves; and where it has nothing, it waits for that like all others: what comes at once for
        the same slot goes back (:meth:`_without_surplus`).
        """
        assert self._turns is not None
        each = count // self._turns.lanes
        if not each and await self._look(wire):
            return
        count, below = self._room()
        if count:
            await self._pop(wire, each or 1, below)

    async def _look(self, wire: Wire) -> bool:
        """Take one message that is there, in turn with other lanes; returns whether there was one, or no room."""
        assert self._turns is not None
        async with self._turns.one:
            count, below = self._room()
            keys = self._keys(below) if count else []
            if not keys:
                return True
            try:
                async with asyncio.timeout(_TURN):
                    reply = await wire.execute("LMPOP", len(keys), *keys, "RIGHT", "COUNT", 1)
            except TimeoutError:
                wire.abort()
                raise ReplyError("the broker does not answer") from None
            if reply:
                await self._arrive(wire, reply)
            return bool(reply)

    async def _arrive(self, wire: Wire, reply: Any) -> None:
        key, messages = reply
        async with self._delivering:
            if self._turns is not None:
                messages = await self._without_surplus(wire, key, messages)
                self._turns.served(self)
            if messages:
                await self._pass_on(messages, key.decode())

    async def _without_surplus(self, wire: Wire, key: bytes, messages: list[bytes]) -> list[bytes]:
        """Put messages to the front of their queue for which another lane has taken the slots meanwhile.

        Where that fails, the ledger knows that they wait in no queue (:meth:`Recovery.lost_messages`).
        """
        room, below = self._room()
        # What may be taken without a free slot is of a higher priority than what would leave for it.
        if int(key.decode().partition(PRIORITY_SEPARATOR)[2] or 0) >= below:
            room = 0
        if len(messages) > room:
            await wire.execute("RPUSH", key, *reversed(messages[room:]))
        return messages[:room]

    async def _pop(self, wire: Wire, count: int, below: int) -> None:
        keys = self._keys(below)
        if not keys:
            await asyncio.sleep(_RETRY)
            return
        self.blocked_as = self._client_id  # Redis may not have read it yet: see call_back
        self._narrow = (count, below) if below < _ALL else None
        try:
            # Redis answers an empty pop after _BLOCK: a server that does not is gone, whatever its socket says.
            async with asyncio.timeout(2 * _BLOCK):
                # New messages come in at the left; what is at the right is the oldest, or was requeued to the front.
                reply = await wire.execute(
                    "BLMPOP", self._patience(), len(keys), *keys, "RIGHT", "COUNT", count
                )
        except TimeoutError:
            wire.abort()
            raise ReplyError("the broker does not answer") from None
        finally:
            self.blocked_as = self._narrow = None
        if reply:
            await self._arrive(wire, reply)

    def _patience(self) -> float:
        """Seconds that a pop waits: few while others wait for room here, which comes with each step of the engine."""
        late = self._late()
        return _SHORT if late is not None and late.left_out and late.is_used else _BLOCK

    async def _pass_on(self, messages: list[bytes], key: str) -> None:
        """Deliver what was popped; behind the bell of a queue for late binding, what is taken there."""
        queue, late = key.split(PRIORITY_SEPARATOR, 1)[0], self._late()
        if late is not None and queue == late.queue:
            queue, rings = late.shared, b"" in messages
            # First what is in hand: behind the bell Redis is asked, which may be away by now.
            if given_back := [message for message in messages if message]:
                await self._deliver(given_back, queue)
            messages = await late.answer(key) if rings else []
        if messages:
            await self._deliver(messages, queue)

    def _keys(self, below: int) -> list[str]:
        """Return the keys to pop from, without those that were found to be no list in the last seconds."""
        keys = self._all_keys(below)
        if not self._left_out:
            return keys
        now = asyncio.get_running_loop().time()
        self._left_out = {key: until for key, until in self._left_out.items() if until > now}
        return [key for key in keys if key not in self._left_out]

    def _all_keys(self, below: int = _ALL) -> list[str]:
        """Return all keys of steps below one, higher priorities first; among equals, queues take turns."""
        queues = self._queues()
        # Redis pops from the first list that has anything: in a fixed order, one full queue would starve the others.
        self._turn = (self._turn + 1) % len(queues)
        queues = queues[self._turn :] + queues[: self._turn]
        if below == _ALL and (late := self._late()) is not None:
            queues = [*queues, *late.queues(queues)]
        return [
            f"{q}{PRIORITY_SEPARATOR}{s}" if s else q for s in PRIORITY_STEPS if s < below for q in queues
        ]

    async def call_back(self, unblock: Callable[[int], object]) -> None:
        """Wait for the pop in flight and for what it brings, for a second at most.

        The request to unblock may reach Redis before the pop that it is meant for: it is repeated.

        Args:
            unblock: Sends ``CLIENT UNBLOCK`` for a connection id.
        """
        for _ in range(_CALLS):
            if self.blocked_as is not None and self._link.connected:
                await greenlets.run_yielding(unblock, self.blocked_as)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1 / _CALLS), self._popping:
                    return

    async def stop(self, unblock: Callable[[int], object]) -> None:
        """End; what the last pop brings is still delivered.

        Args:
            unblock: Sends ``CLIENT UNBLOCK`` for a connection id.
        """
        self._stopping = True
        self._woken.set()
        # First what is in flight: Redis would answer a pop into a closed connection, and the messages be lost.
        await self.call_back(unblock)
        self._task.cancel()
        await self._link.close()


class Poller(kombu_redis.MultiChannelPoller):  # type: ignore[misc]
    """kombu's poller; on the event loop, queues are pulled and only pub/sub sockets are polled."""

    hub: AsyncioHub | None = None

    def _register_BRPOP(self, channel: Any) -> None:  # noqa: N802 - kombu's name
        if self.hub is None or not greenlets.may_await():
            super()._register_BRPOP(channel)
        else:
            channel.pull(self.hub)

    def maybe_refresh_binding_expiry(self) -> None:
        """kombu's timer; what Redis refuses is tried again a second later, without a traceback each time."""
        for channel in list(self._channels):
            with contextlib.suppress(*channel.connection_errors):
                if greenlets.may_await():
                    # kombu waits for Redis then, and the loop does not.
                    greenlets.await_(asyncio.to_thread(channel.maybe_refresh_binding_expiry))
                else:
                    channel.maybe_refresh_binding_expiry()
