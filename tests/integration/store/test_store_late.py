"""Queues for late binding: who may be taken, tenants' turns, priorities, bounds, and what comes back."""

from __future__ import annotations

import json
from typing import Any

from dynamo_tasks.protocol.instances import InstanceInfo, ModelCard
from dynamo_tasks.router.late import Marks, pick
from dynamo_tasks.store.ledger.fields import Field
from dynamo_tasks.store.ledger.recovery import Recovery
from dynamo_tasks.store.queue_keys import priority_suffix
from dynamo_tasks.store.registry import Registry
from dynamo_tasks.store.routing.late import LateQueue
from tests.support.server import RedisServer
from tests.support.streams import Place, on_loop
from tests.support.wait_queue import WaitQueue

LEASE = 0x79


class Late(WaitQueue):
    """A component whose requests may be bound late, and a worker that takes them."""

    def __init__(self, place: Place, *cached: int):
        super().__init__(place)
        self.cached = set(cached)
        self.queue = LateQueue(place.store, place.keys, self.component)

    def key(self, priority: int = 0) -> str:
        return f"{self.place.queue}.late{priority_suffix(priority)}"

    async def wait(self, block: int = 0, *, count: int = 1, **options: Any) -> list[str]:
        """Submit prompts of two blocks that begin with one."""
        marks = Marks(32, 16, [block, -1]).encode()
        return await self.submit(count=count, **{"marks": marks, "waits": True, **options})

    async def take(self, priority: int = 0) -> str | None:
        """What the worker takes of a priority: without the bell, which is popped."""
        await self.place.do("LPOP", self.key(priority))
        window = await self.queue.look(self.key(priority))
        if not window.ids:
            return None
        chosen = pick(window.requests, self.cached, window.longest)
        request_id = window.ids[chosen.place]
        taken = await self.queue.take(
            self.key(priority), request_id, [window.ids[one] for one in chosen.before], {"a": 1}
        )
        assert taken is not None
        assert json.loads(taken.message)["headers"]["id"] == request_id
        return request_id

    async def rings(self, priority: int = 0) -> bool:
        return bool(await self.place.do("LRANGE", self.key(priority), 0, -1) == [b""])

    async def appear(self, *, steps: int) -> None:
        """Register a worker that takes late, if its steps are known."""
        card = ModelCard("m", kv_events=True, step_tokens=steps)
        info = InstanceInfo(self.component, "e", self.place.namespace, LEASE, {"celery": ""}, model=card)
        await Registry(self.place.store).register(self.place.namespace, LEASE, [info])


@on_loop
async def test_the_cached_goes_first_and_nothing_is_left_behind(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        late = Late(place, 7)
        others = await late.wait(count=3)
        (wanted,) = await late.wait(7)
        assert await late.pop() is None, "those who do not take late see nothing of it"
        assert await late.rings()
        assert await late.take() == wanted
        assert await late.rings(), "for the rest"
        assert await place.do("HGET", late.keys.record(wanted), Field.WHY) == b'{"a":1}'
        attempt = await late.claim(wanted, LEASE)
        assert attempt is not None
        await late.finish(attempt)
        assert [await late.take() for _ in others] == others
        assert await late.take() is None
        assert not await late.rings()
        assert await place.do("KEYS", f"{late.keys.base}line*") == []
        assert await place.do("KEYS", f"{late.keys.base}tags*") == []


@on_loop
async def test_a_request_is_taken_by_one(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        late = Late(place)
        (request_id,) = await late.wait()
        assert await late.queue.take(late.key(), request_id, [], {}) is not None
        assert await late.queue.take(late.key(), request_id, [], {}) is None


@on_loop
async def test_who_comes_stands_behind_those_who_wait(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        late = Late(place)
        (bound,) = await late.wait(waits=False)
        assert await late.pop() == bound
        (first,) = await late.wait(priority=3)
        (second,) = await late.wait(waits=False, priority=3)
        (lower,) = await late.wait(waits=False, priority=6)
        (higher,) = await late.wait(waits=False)
        assert await late.pop() == higher, "of a higher priority, nobody waits"
        assert (await late.take(3), await late.take(3), await late.take(6)) == (first, second, lower)


@on_loop
async def test_a_flood_that_is_cached_leaves_others_their_turns(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        late = Late(place, 7)
        await late.wait(7, count=100, tenant="flood")
        for _ in range(20):
            await late.take()
        (single,) = await late.wait(tenant="single")
        taken = [await late.take() for _ in range(10)]
        assert single in taken
        # Its last request, which is cached, uses the turn of its first; the others keep theirs.
        last = await late.wait(9, count=1, tenant="flood")
        late.cached = {9}
        for _ in range(100):
            if await late.take() == last[0]:
                break
        else:
            raise AssertionError("it was not taken")


@on_loop
async def test_nobody_is_passed_over_for_ever(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        late = Late(place, 7)
        (poor,) = await late.wait()
        await late.wait(7, count=19)
        taken = 0
        while await late.take() != poor:
            await late.wait(7)
            taken += 1
        assert 19 <= taken <= 1.2 * 20


@on_loop
async def test_no_more_are_taken_than_may_run(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        late = Late(place)
        await late.limits(concurrency=1)
        await late.wait(count=2)
        first = await late.take()
        assert first is not None
        attempt = await late.claim(first, LEASE)
        assert attempt is not None
        assert await late.take() is None
        assert not await late.rings()
        await late.finish(attempt)
        assert await late.rings()
        assert await late.take() is not None


@on_loop
async def test_a_lost_bell_rings_again_and_who_is_cancelled_leaves(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        late = Late(place)
        await late.appear(steps=512)
        gone, stays = await late.wait(count=2)
        await place.do("DEL", late.key())
        await late.admit()
        assert await late.rings()
        await place.ledger.cancel(place.namespace, gone)
        assert (await late.take(), await late.take()) == (stays, None)


@on_loop
async def test_what_was_taken_and_not_claimed_goes_to_the_queue_of_all(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        late = Late(place)
        (request_id,) = await late.wait()
        assert await late.take() == request_id  # and its worker dies
        await place.do("ZADD", late.keys.queued, 1, request_id)
        recovery = Recovery(place.store)
        suspects, _ = await recovery.lost_messages(place.namespace, set())
        assert suspects == {request_id}
        assert (await recovery.lost_messages(place.namespace, suspects))[1] == 1
        assert await late.pop() == request_id
        assert await late.claim(request_id, LEASE) is not None


@on_loop
async def test_what_ran_at_a_dead_worker_goes_to_the_front_of_all(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        late = Late(place)
        (request_id,) = await late.wait()
        await late.take()
        assert await late.claim(request_id, LEASE) is not None
        assert await Recovery(place.store).requeue(place.namespace, request_id, LEASE) == "OK"
        assert await late.pop() == request_id


@on_loop
async def test_where_nobody_takes_late_any_more_it_goes_to_all(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        late = Late(place)
        await late.appear(steps=512)
        ids = await late.wait(count=40)
        await late.admit()
        assert await late.pop() is None
        await late.appear(steps=0)
        await late.admit()
        assert await late.serve(40, LEASE) == ids
        assert await late.length() == 0


@on_loop
async def test_a_queue_that_is_called_so_is_none(redis_server: RedisServer) -> None:
    """Of an application: its messages stay in its list, and what stands behind it is not moved."""
    async with Place(redis_server.url) as place:
        line = WaitQueue(place)
        for name in ("reports.late", "reports.later"):
            await line.submit(count=20, queue=name)
            assert await place.do("LLEN", name) == 16
            await line.admit()
            assert await place.do("LLEN", name) == 16
            await place.do("LTRIM", name, 1, 0)
            await line.admit()
            assert await place.do("LLEN", name) == 4
            await place.do("DEL", name)
            (request_id,) = await line.submit(queue=name)
            await place.do("RPOP", name)
            assert await line.claim(request_id, LEASE) is not None
            assert await Recovery(place.store).requeue(place.namespace, request_id, LEASE) == "OK"
            assert await place.do("LLEN", name) == 1, "it comes back to its own queue"
            await place.do("DEL", name)
