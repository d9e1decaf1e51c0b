"""Messages of purged requests leave long queues, a part of them at a time; all others stay, in their order."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest

from dynamo_tasks.store.queue_keys import PRIORITY_STEPS, priority_suffix
from tests.support.promises import in_time
from tests.support.server import RedisServer
from tests.support.streams import Place, on_loop

BODY = b"eyJub3QiOiAiaWQifQ" * 150


def message(n: int) -> bytes:
    return b'{"body": "%s", "headers": {"lang": "py", "id": "r%d"}, "properties": {}}' % (BODY, n)


async def fill(place: Place, messages: list[bytes], purged: list[int]) -> None:
    for at in range(0, len(messages), 500):
        await place.do("RPUSH", place.queue, *messages[at : at + 500])
    for n in purged:
        await place.do("RPUSH", place.keys.erase, msgspec.msgpack.encode([f"r{n}", place.queue]))


@pytest.mark.parametrize("looked_at", [1, 7, 250, 4000])
@on_loop
async def test_others_stay_in_their_order(redis_server: RedisServer, looked_at: int) -> None:
    async with Place(redis_server.url) as place:
        waiting = [n for n in range(700) for _ in range(1 + (n % 50 == 0))]  # some were delivered twice
        purged = [0, 1, 2, 50, 99, 100, 101, 350, 498, 500, 698, 699]
        await fill(place, [message(n) for n in waiting], [*purged, 9999])
        removed = await place.ledger.upkeep.erase(place.namespace, looked_at=looked_at)
        left = [n for n in waiting if n not in purged]
        assert await place.do("LRANGE", place.queue, 0, -1) == [message(n) for n in left]
        assert removed == len(waiting) - len(left)
        assert await place.do("EXISTS", place.keys.erase, place.keys.erasing) == 0


@on_loop
async def test_every_list_in_which_it_may_lie(redis_server: RedisServer) -> None:
    """Of the component and of the one instance that it was meant for, at each priority."""
    async with Place(redis_server.url) as place:
        instance = f"{place.queue}.generate-1a2b3c"
        lists = [
            f"{queue}{priority_suffix(step)}" for queue in (place.queue, instance) for step in PRIORITY_STEPS
        ]
        for one in lists:
            await place.do("RPUSH", one, message(1), message(2))
        await place.do("RPUSH", place.keys.erase, msgspec.msgpack.encode(["r1", instance]))
        assert await place.ledger.upkeep.erase(place.namespace, looked_at=3) == len(lists)
        for one in lists:
            assert await place.do("LRANGE", one, 0, -1) == [message(2)], one


@on_loop
async def test_fifty_purges_of_a_long_queue_keep_nobody_waiting(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        purged = [n * 97 for n in range(50)]
        await fill(place, [message(n) for n in range(5000)], [])
        took = []
        for _ in range(3):
            await fill(place, [message(n) for n in purged], purged)
            erasing = asyncio.create_task(place.ledger.upkeep.erase(place.namespace))
            longest = 0.0
            while not erasing.done():
                began = time.monotonic()
                await place.do("PING")
                longest = max(longest, time.monotonic() - began)
            await erasing
            took.append(longest)
        rest = iter(took)
        in_time(lambda: next(rest), 1.0)
