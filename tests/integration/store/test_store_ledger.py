"""Submitting, timers, leaving, retention: what the ledger keeps and for how long."""

from __future__ import annotations

import asyncio
import time

import pytest

from benchmarks.proxy import Proxy
from dynamo_tasks.errors import FencedError, IdempotencyConflictError, QueueFullError
from dynamo_tasks.protocol.states import State
from dynamo_tasks.store.ledger.ledger import cancelled
from dynamo_tasks.store.registry import Registry
from dynamo_tasks.store.streams.presence import ReaderPresence
from tests.support.server import RedisServer
from tests.support.streams import Place, eventually, on_loop, read_to_end, values

DAY_MS = 24 * 3600 * 1000


async def queue(place: Place) -> list[bytes]:
    return await place.do("LRANGE", place.queue, 0, -1)


async def timer(place: Place, member: str) -> float | None:
    score = await place.do("ZSCORE", place.keys.timers, member)
    return None if score is None else float(score) / 1000


async def pttl(place: Place, key: str) -> int:
    return int(await place.do("PTTL", key))


@on_loop
async def test_record_and_message_are_written_together_once(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        new = place.new(tenant="t", render=b"r")
        assert await place.ledger.submit(new) == new.id
        assert await place.ledger.submit(new) == new.id  # sent twice: the reply was lost
        assert await queue(place) == [b"message"]
        record = await place.ledger.get(new.id)
        assert (record.state, record.attempts, record.render) == (State.QUEUED, 0, b"r")
        assert place.namespace in await place.store.namespaces()


@on_loop
async def test_priorities_have_lists_of_their_own(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        await place.submit(priority=9)
        await place.submit(priority=5)
        assert await place.do("LLEN", place.queue + "\x06\x169") == 1
        assert await place.do("LLEN", place.queue + "\x06\x163") == 1


@on_loop
async def test_an_idempotency_key_stands_for_one_request_of_one_tenant(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        key = {"idempotency_key": "k", "digest": "d"}
        first = await place.submit(tenant="a", **key)
        assert await place.submit(tenant="a", **key) == first
        assert await place.submit(tenant="b", **key) != first
        with pytest.raises(IdempotencyConflictError):
            await place.submit(tenant="a", idempotency_key="k", digest="other")
        assert len(await queue(place)) == 2


@on_loop
async def test_a_full_queue_refuses_and_writes_nothing(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        await place.submit(max_queue=2, priority=9)
        await place.submit(max_queue=2)
        refused = place.new(max_queue=2)
        with pytest.raises(QueueFullError):
            await place.ledger.submit(refused)
        assert await place.state(refused.id) is None


@on_loop
async def test_a_message_with_an_eta_waits_in_the_ledger(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        request_id = await place.submit(not_before=time.time() + 0.2)
        assert await queue(place) == []
        assert await place.ledger.upkeep.due(place.namespace) == []

        async def moved() -> list[bytes]:
            await place.ledger.upkeep.due(place.namespace)
            return await queue(place)

        assert await eventually(moved) == [b"message"]
        assert await timer(place, f"m:{request_id}") is None


@on_loop
async def test_a_deferred_message_of_a_running_request_is_kept(redis_server: RedisServer) -> None:
    """A retry that overtook the release of its predecessor: it must be there when the owner dies instead."""
    async with Place(redis_server.url) as place:
        owner, request_id = await place.owner(), await place.submit()
        await place.do("DEL", place.queue)
        attempt = await owner.claim(request_id)
        await place.ledger.defer(place.namespace, request_id, 0, b"retry")
        await place.ledger.upkeep.due(place.namespace)
        assert await queue(place) == []
        assert await timer(place, f"m:{request_id}") is not None
        await owner.ledger.release(attempt, retries=0, not_before=4e9)
        await place.ledger.defer(place.namespace, request_id, 0, b"retry")
        await place.ledger.upkeep.due(place.namespace)
        assert await queue(place) == [b"retry"]


@on_loop
async def test_a_due_timer_that_was_handed_out_is_not_lost_with_its_taker(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        request_id = await place.submit(deadline=time.time() - 1)
        assert await place.ledger.upkeep.due(place.namespace) == [("d", request_id)]
        assert await place.ledger.upkeep.due(place.namespace) == []  # not twice at once
        again = await timer(place, f"d:{request_id}")
        assert again is not None
        assert again > time.time() + 1
        assert await place.ledger.expire(place.namespace, request_id, "late") == "OK"
        assert await timer(place, f"d:{request_id}") is None
        assert await place.state(request_id) == "EXPIRED"


@on_loop
async def test_guards_of_cancel(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        client, owner = await place.client(), await place.owner()
        sub = await client.submit()

        async def cancel(request_id: str, guard: str) -> str:
            return await place.ledger.cancel(place.namespace, request_id, end=cancelled(), guard=guard)

        assert await cancel(sub.request_id, "unread") == "GUARDED"
        background = await place.submit(background=True)
        assert await cancel(background, "unread") == "GUARDED"
        assert await cancel(background, "due") == "GUARDED"
        later = await place.submit(deadline=time.time() + 100)
        assert await cancel(later, "due") == "GUARDED"
        assert await timer(place, f"d:{later}") is not None
        await owner.claim(background)
        assert await cancel(background, "queued") == "GUARDED"
        assert await cancel("unknown", "") == "GONE"


@on_loop
async def test_a_claimed_request_has_its_deadline_watched(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        owner = await place.owner()
        deadline = time.time() + 100
        request_id = await place.submit(deadline=deadline, expires=time.time() + 50)
        soon = await timer(place, f"d:{request_id}")
        assert soon is not None
        assert soon < deadline - 40
        attempt = await owner.claim(request_id)
        assert attempt.deadline == pytest.approx(deadline, abs=5)  # it is told as the time that is left
        assert await timer(place, f"d:{request_id}") == pytest.approx(attempt.deadline + 1, abs=0.01)


@on_loop
async def test_the_last_reader_that_leaves_starts_the_abandon_timer(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        one, two, owner = await place.client(), await place.client(), await place.owner()
        sub = await one.submit(abandon_after=7)
        other = await two.join(sub.request_id)
        member = f"a:{sub.request_id}"
        sub.close()
        await eventually(lambda: _readers(place, sub.request_id, two.reader.channel))
        assert await timer(place, member) is None
        other.close()
        left = await eventually(lambda: timer(place, member))
        assert left == pytest.approx(time.time() + 7, abs=2)
        back = await one.join(sub.request_id)
        assert await timer(place, member) is None
        log = await owner.run(sub.request_id)
        await owner.finish(log)
        assert values(await read_to_end(back)) == []


async def _readers(place: Place, request_id: str, wanted: str) -> bool:
    return await place.field(request_id, "readers") == wanted


@on_loop
async def test_a_background_request_is_never_abandoned(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        client = await place.client()
        sub = await client.submit(background=True)
        sub.close()
        await eventually(lambda: _readers(place, sub.request_id, ""))
        assert await timer(place, f"a:{sub.request_id}") is None


@on_loop
async def test_a_client_process_that_died_is_reaped_after_two_looks(redis_server: RedisServer) -> None:
    async with Proxy(redis_server.url) as proxy, Place(redis_server.url) as place:
        alive, dead = await place.client(), await place.client(proxy.url)
        sub = await alive.submit()
        await dead.join(sub.request_id)
        proxy.refuse()  # no farewell
        presence = ReaderPresence(place.store)
        assert await presence.check(place.namespace) == []
        gone = await eventually(lambda: presence.check(place.namespace))
        assert gone == [sub.request_id]
        assert await place.field(sub.request_id, "readers") == alive.reader.channel
        assert await place.do("EXISTS", place.keys.reads(dead.reader.channel)) == 0
        await asyncio.gather(*(presence.check(place.namespace) for _ in range(3)))
        assert await place.field(sub.request_id, "readers") == alive.reader.channel


@on_loop
async def test_retention(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        owner, client = await place.owner(), await place.client()
        read, unread = await client.submit(), await place.submit()
        own = await client.submit(retention=5.0)
        for request_id in (read.request_id, unread, own.request_id):
            log = await owner.run(request_id)
            await owner.write(log, 1)
            await owner.finish(log)
            assert 0 <= DAY_MS - await pttl(place, place.keys.record(request_id)) < 60_000
        # One hour as long as nobody saw the end; 60 s after the last reader did.
        assert 3_590_000 < await pttl(place, place.keys.stream(read.request_id)) <= 3_600_000
        for sub in (read, own):
            await read_to_end(sub)
            sub.close()
        await eventually(lambda: _expires_within(place, read.request_id, 60_000))
        assert await pttl(place, place.keys.stream(read.request_id)) > 50_000
        await eventually(lambda: _expires_within(place, own.request_id, 5_000))
        assert await pttl(place, place.keys.stream(unread)) > 3_500_000


async def _expires_within(place: Place, request_id: str, ms: int) -> bool:
    return 0 < await pttl(place, place.keys.stream(request_id)) <= ms


@on_loop
async def test_a_reader_that_leaves_prolongs_nothing(redis_server: RedisServer) -> None:
    """What an API keeps of a response may have cut its stream's time by then."""
    async with Place(redis_server.url) as place:
        owner, client = await place.owner(), await place.client()
        sub = await client.submit()
        await owner.finish(await owner.run(sub.request_id))
        await read_to_end(sub)
        await place.do("PEXPIRE", place.keys.stream(sub.request_id), 20_000)
        sub.close()
        await eventually(lambda: _readers(place, sub.request_id, ""))
        assert 0 < await pttl(place, place.keys.stream(sub.request_id)) <= 20_000


@on_loop
async def test_an_end_that_nobody_read_is_not_seen(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        owner, client = await place.owner(), await place.client()
        sub = await client.submit()
        await owner.finish(await owner.run(sub.request_id))
        await eventually(lambda: sub.ended)
        sub.close()
        await eventually(lambda: _readers(place, sub.request_id, ""))
        assert await pttl(place, place.keys.stream(sub.request_id)) > 3_500_000


@on_loop
async def test_purge_erases_payload_and_log(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        owner, request_id = await place.owner(), await place.submit(render=b"secret")
        log = await owner.run(request_id)
        assert await place.ledger.upkeep.purge(place.namespace, request_id) == "ACTIVE"
        await owner.write(log, "text")
        await owner.finish(log)
        assert await place.ledger.upkeep.purge(place.namespace, request_id) == "OK"
        record = await place.ledger.get(request_id)
        assert (record.purged, record.render, record.state) == (True, b"", State.SUCCEEDED)
        assert await place.do("EXISTS", place.keys.stream(request_id)) == 0
        assert await place.field(request_id, "message") is None
        assert await place.ledger.upkeep.purge(place.namespace, "unknown") == "GONE"


@on_loop
async def test_what_ended_leaves_no_key_without_an_end(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        owner, client = await place.owner(), await place.client()
        subs = [
            await client.submit(deadline=time.time() + 60, idempotency_key=f"k{n}", digest="d")
            for n in range(4)
        ]
        finished, cancelled_running, cancelled_queued, retried = (sub.request_id for sub in subs)
        logs = {i: await owner.run(i) for i in (finished, cancelled_running, retried)}
        await owner.ledger.release(
            logs[retried].attempt, retries=1, not_before=time.time() + 60, message=b"m"
        )
        await owner.finish(logs[finished])
        for request_id in (cancelled_running, cancelled_queued, retried):
            await place.ledger.cancel(place.namespace, request_id)
        for sub in subs:
            await read_to_end(sub)
        await client.reader.close()
        await ReaderPresence(place.store).check(place.namespace)
        presence = ReaderPresence(place.store)
        await presence.check(place.namespace)
        await presence.check(place.namespace)
        await place.do("DEL", place.queue)
        await Registry(place.store).revoke(place.namespace, owner.lease)
        left = await place.do("KEYS", f"{place.keys.base}*")
        assert sorted([key for key in left if await pttl(place, key.decode()) == -1]) == []
        for log in logs.values():
            owner.writer.forget(log)


@on_loop
async def test_a_fenced_attempt_cannot_release(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        one, two, request_id = await place.owner(), await place.owner(), await place.submit()
        attempt = await one.claim(request_id)
        await one.die()
        await two.claim(request_id)
        with pytest.raises(FencedError):
            await one.ledger.release(attempt, retries=1)
