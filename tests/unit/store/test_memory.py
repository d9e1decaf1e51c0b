"""What a server has room for."""

from __future__ import annotations

import asyncio

import pytest

from dynamo_tasks.store.redis.server import Store
from dynamo_tasks.store.streams.memory import Memory, memory_of
from tests.support.server import RedisServer

MB = 1 << 20


def test_room_is_what_is_free_by_bytes_per_token_and_retention() -> None:
    assert Memory(used=10 * MB, limit=10 * MB + 39 * 60 * 1000, capped=True).tokens_per_s == 1000
    assert Memory(used=20 * MB, limit=10 * MB, capped=True).tokens_per_s == 0


@pytest.mark.parametrize(("free", "tight"), [(20 * MB, True), (200 * MB, False)])
def test_a_server_is_tight_for_so_many_slots(free: int, tight: bool) -> None:
    assert Memory(used=0, limit=free, capped=True).is_tight(256) is tight
    assert not Memory(used=0, limit=free, capped=True).is_tight(1)


def test_a_server_is_asked(own_server: RedisServer) -> None:
    async def ask() -> Memory:
        store = await Store.connect(own_server.url)
        try:
            return await memory_of(store)
        finally:
            await store.close()

    free = asyncio.run(ask())
    assert free.limit > free.used > 0
    assert not free.capped
    own_server.command("CONFIG", "SET", "maxmemory", "100mb")
    capped = asyncio.run(ask())
    assert (capped.limit, capped.capped) == (100 * MB, True)
