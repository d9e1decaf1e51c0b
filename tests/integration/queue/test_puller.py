"""Pops of a worker without a free slot: what they may take, and how they end when there is one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import redis

from dynamo_tasks.errors import ServerUnavailableError
from dynamo_tasks.protocol.names import LATE
from dynamo_tasks.queue.broker.puller import Puller
from dynamo_tasks.store.queue_keys import priority_suffix
from dynamo_tasks.store.redis.address import Address
from tests.support.server import RedisServer


class Slots:
    """A worker's slots, and what came for them."""

    def __init__(self, server: RedisServer, queue: str):
        self.redis = redis.Redis(port=server.port)
        self.queue = queue
        self.free = 0
        self.allowance = (0, 0)
        self.came: list[bytes] = []
        self.late: Any = None
        self.puller = Puller(
            Address.parse(server.url), queues=lambda: [queue], free=lambda: self.free,
            allowance=lambda: self.allowance, deliver=self._deliver, late=lambda: self.late,
        )  # fmt: skip

    async def _deliver(self, messages: list[bytes], key: str) -> None:
        assert key == self.queue
        self.came += messages
        for _ in messages:
            if self.free:
                self.free -= 1
            else:
                self.allowance = (self.allowance[0] - 1, self.allowance[1] if self.allowance[0] > 1 else 0)

    def push(self, message: str, priority: int = 0) -> None:
        self.redis.lpush(self.queue + priority_suffix(priority), message)

    def look(self) -> None:
        """What the channel does when there is more room, or less."""
        self.puller.wake()

    async def call_back(self) -> None:
        await self.puller.call_back(self.redis.client_unblock)

    async def until(self, check: Callable[[], Any]) -> None:
        async with asyncio.timeout(20):
            while not check():
                await asyncio.sleep(0.005)


@pytest.fixture
def queue(request: pytest.FixtureRequest) -> str:
    return f"puller|{request.node.name}"


def run(server: RedisServer, queue: str, work: Callable[[Slots], Any]) -> None:
    async def main() -> None:
        slots = Slots(server, queue)
        try:
            slots.look()
            await work(slots)
        finally:
            await slots.puller.stop(slots.redis.client_unblock)
            slots.redis.close()

    asyncio.run(main())


def test_without_room_nothing_is_taken(redis_server: RedisServer, queue: str) -> None:
    async def work(slots: Slots) -> None:
        slots.push("a")
        slots.look()
        await slots.until(slots.puller.connected.is_set)
        assert slots.puller.blocked_as is None
        assert slots.came == []

    run(redis_server, queue, work)


def test_only_so_many_and_only_of_higher_priorities_are_taken(redis_server: RedisServer, queue: str) -> None:
    async def work(slots: Slots) -> None:
        for message, priority in (("last", 9), ("third", 6), ("first", 0), ("second", 3), ("fourth", 6)):
            slots.push(message, priority)
        slots.allowance = (3, 9)
        slots.look()
        await slots.until(lambda: len(slots.came) == 3)
        assert slots.came == [b"first", b"second", b"third"]
        slots.allowance = (5, 6)
        slots.look()
        await slots.until(lambda: slots.puller.blocked_as is not None)
        assert len(slots.came) == 3
        slots.push("urgent", 3)
        await slots.until(lambda: slots.came[3:] == [b"urgent"])
        slots.free = 8
        await slots.call_back()
        await slots.until(lambda: slots.came[4:] == [b"fourth", b"last"])

    run(redis_server, queue, work)


def test_a_pop_that_asks_for_the_wrong_thing_is_outdated(redis_server: RedisServer, queue: str) -> None:
    async def work(slots: Slots) -> None:
        slots.allowance = (2, 6)
        slots.look()
        await slots.until(lambda: slots.puller.blocked_as is not None)
        assert not slots.puller.is_outdated
        for allowance, free, outdated in (
            ((3, 6), 0, False), ((2, 3), 0, False), ((1, 6), 0, True), ((2, 9), 0, True),
            ((0, 0), 0, True), ((2, 6), 1, True),
        ):  # fmt: skip
            slots.allowance, slots.free = allowance, free
            assert slots.puller.is_outdated == outdated, (allowance, free)
        await slots.call_back()
        await slots.until(lambda: slots.puller.blocked_as is not None)
        assert not slots.puller.is_outdated, "a slot is free: all lists are popped from"

    run(redis_server, queue, work)


class Unreachable:
    """Late binding with which nothing can be taken: Redis is away."""

    left_out = is_used = False
    has_room = True
    asked = 0

    def __init__(self, queue: str):
        self.shared, self.queue = queue, queue + LATE

    def queues(self, consumed: list[str]) -> list[str]:
        return [] if self.asked else [self.queue]

    async def answer(self, key: str) -> list[bytes]:
        self.asked += 1
        raise ServerUnavailableError("away")


def test_what_came_with_a_bell_is_delivered_although_nothing_can_be_taken(
    redis_server: RedisServer, queue: str
) -> None:
    async def work(slots: Slots) -> None:
        slots.late = Unreachable(queue)
        slots.redis.rpush(queue + LATE, b"", b"came back")
        slots.free = 2
        slots.look()
        await slots.until(lambda: slots.late.asked)
        assert slots.came == [b"came back"]

    run(redis_server, queue, work)
