"""The fence, the flush, and what a server that forgot is told again."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from benchmarks.proxy import Proxy
from dynamo_tasks.errors import FencedError, LeaseLostError, RequestNotFoundError, StreamDivergedError
from dynamo_tasks.protocol.events import EventId, Kind
from dynamo_tasks.protocol.tokens import TokenDelta
from dynamo_tasks.store.redis.wire import Wire
from dynamo_tasks.store.streams import open_stream
from tests.support.server import RedisServer
from tests.support.streams import DONE, Owner, Place, eventually, on_loop, read_to_end, values


@on_loop
async def test_the_next_claim_fences_a_writer_that_still_runs(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        one, two, request_id = await place.owner(), await place.owner(), await place.submit()
        old = await one.run(request_id)
        await one.write(old, "a")
        await one.die()
        new = await two.run(request_id)
        await one.write(old, "refused")
        assert [type(reason) for reason in one.deaths] == [FencedError]
        with pytest.raises(FencedError):
            old.append("never sent")
        await two.write(new, "b")
        await two.finish(new)
        assert values(await place.log(request_id)) == ["a", "b"]


@on_loop
async def test_a_cancelled_writer_writes_nothing_any_more(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        owner, request_id = await place.owner(), await place.submit()
        log = await owner.run(request_id)
        await owner.write(log, "a")
        await place.ledger.cancel(place.namespace, request_id)
        log.append("refused")
        with pytest.raises(FencedError):
            await owner.finish(log)
        events = await place.log(request_id)
        assert (values(events), events[-1].kind) == (["a"], Kind.END)
        assert await place.state(request_id) == "CANCELLED"


@on_loop
async def test_a_fault_of_the_writer_ends_its_logs_and_not_the_writer(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Place(redis_server.url) as place:
        owner = await place.owner()
        log = await owner.run(await place.submit())
        with monkeypatch.context() as broken:
            broken.setattr(owner.writer, "_pack_batch", lambda batch: 1 / 0)
            log.append("lost")
            with pytest.raises(LeaseLostError, match="division by zero"):
                await owner.finish(log)
        request_id = await place.submit()
        after = await owner.run(request_id)
        await owner.write(after, "written")
        await owner.finish(after)
        assert values(await place.log(request_id)) == ["written"]


@on_loop
async def test_a_log_that_is_gone_is_not_created_by_its_writer(redis_server: RedisServer) -> None:
    """NOMKSTREAM: record and log are gone under the same server process."""
    async with Place(redis_server.url) as place:
        owner, request_id = await place.owner(), await place.submit()
        log = await owner.run(request_id)
        await place.do("DEL", place.keys.record(request_id), place.keys.stream(request_id))
        log.append("x")
        with pytest.raises(RequestNotFoundError):
            await owner.finish(log)
        assert [type(reason) for reason in owner.deaths] == [RequestNotFoundError]
        assert await place.do("EXISTS", place.keys.record(request_id), place.keys.stream(request_id)) == 0


@on_loop
async def test_a_nil_reply_is_resynced_where_the_record_still_grants_it(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        owner, request_id = await place.owner(), await place.submit()
        log = await owner.run(request_id)
        await owner.write(log, 1, 2)
        await place.do("DEL", place.keys.stream(request_id))
        await owner.write(log, 3)
        await owner.finish(log)
        events = await place.log(request_id)
        assert values(events) == [1, 2, 3]
        assert events[0].kind == Kind.CLAIM


@on_loop
async def test_what_is_older_than_what_is_kept_cannot_be_written_again(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_stream, "KEEP", 0.0)
    async with Place(redis_server.url) as place:
        owner, request_id = await place.owner(), await place.submit()
        log = await owner.run(request_id)
        await owner.write(log, 1)
        await owner.write(log, 2)
        await place.do("DEL", place.keys.stream(request_id))
        log.append(3)
        await eventually(lambda: owner.deaths)
        assert type(owner.deaths[0]) is StreamDivergedError


@on_loop
async def test_a_flush_is_one_transaction_log_first_then_push(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[list[bytes]] = []
    transaction = Wire.transaction

    async def spy(wire: Wire, packed: list[bytes]) -> list[object]:
        sent.append([command.split(b"\r\n")[2] for command in packed])
        return await transaction(wire, packed)

    monkeypatch.setattr(Wire, "transaction", spy)
    async with Place(redis_server.url) as place:
        owner, client = await place.owner(), await place.client()
        subs = [await client.submit() for _ in range(3)]
        logs = [await owner.run(sub.request_id) for sub in subs]
        for log in logs:
            log.append(1)
        done = [log.finish(DONE, b"", settled=True) for log in logs]
        await asyncio.gather(*done)
        # Three entries, one PUBLISH for the one client with all of its events, three ends.
        assert [b"XADD"] * 3 + [b"PUBLISH"] + [b"EVALSHA"] * 3 in sent
        for sub in subs:
            assert values(await read_to_end(sub)) == [1]


@on_loop
async def test_a_flush_is_executed_as_one(own_server: RedisServer) -> None:
    async with Place(own_server.url) as place:
        owner, request_id = await place.owner(), await place.submit()
        log = await owner.run(request_id)
        await owner.write(log, 1, 2, 3)
        await owner.finish(log)
        stats = (await place.do("INFO", "commandstats")).decode()
        calls = next(line for line in stats.splitlines() if line.startswith("cmdstat_exec:"))
        assert calls.split("calls=")[1].split(",")[0] == str(owner.writer.flushes) == "4"


LAST = TokenDelta("b", [2], 0, "stop", usage={"prompt_tokens": 1, "completion_tokens": 2, "cached_tokens": 0})


@on_loop
async def test_the_last_tokens_go_with_the_end(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        owner, sub, log = await place.running()
        log.append(TokenDelta("a", [1]))
        await owner.writer.written(log)
        flushes = owner.writer.flushes
        log.append(LAST)
        for _ in range(5):  # as many turns of the loop as a handler may take to its end
            await asyncio.sleep(0)
        await owner.finish(log)
        assert owner.writer.flushes == flushes + 1
        kinds = [event.kind for event in await read_to_end(sub)]
        assert kinds == [Kind.CLAIM, Kind.TOKENS, Kind.TOKENS, Kind.END]


@on_loop
async def test_the_last_tokens_do_not_wait_for_an_end_that_takes_long(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        owner, sub, log = await place.running()
        log.append(LAST)
        await eventually(lambda: not log.busy)
        log.append(TokenDelta("", [3]))  # a handler that has more to say after all
        await eventually(lambda: not log.busy)
        await owner.finish(log)
        kinds = [event.kind for event in await read_to_end(sub)]
        assert kinds == [Kind.CLAIM, Kind.TOKENS, Kind.TOKENS, Kind.END]


@on_loop
async def test_what_gathers_during_a_flush_becomes_one_event(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        owner, sub, log = await place.running()
        for n in range(50):
            log.append(n)
        await owner.finish(log)
        events = await read_to_end(sub)
        assert values(events) == list(range(50))
        assert len(events) == 3


@on_loop
async def test_an_outage_holds_the_producer_back(redis_server: RedisServer) -> None:
    """What gathers while the server is away is bounded, although nothing of it is frozen."""
    async with Proxy(redis_server.url) as proxy, Place(redis_server.url) as place:
        owner, sub, log = await place.running(proxy.url)
        proxy.refuse()
        n = 0
        while not log.congested:
            log.append("x" * 1000)
            n += 1
            assert n < 5000
        proxy.refuse(False)
        await log.room()
        await owner.finish(log)
        assert values(await read_to_end(sub)) == ["x" * 1000] * n


async def _forgotten(place: Place, proxy: Proxy, owner: Owner, snapshot: dict[str, object]) -> None:
    """The server goes away and comes back without what it learned since the snapshot."""
    proxy.refuse()
    await place.forget(snapshot)
    proxy.refuse(False)


@on_loop
async def test_events_that_the_server_forgot_are_written_again(redis_server: RedisServer) -> None:
    async with Proxy(redis_server.url) as proxy, Place(redis_server.url) as place:
        owner, sub, log = await place.running(proxy.url)
        await owner.write(log, 1, 2)
        snapshot = await place.snapshot(sub.request_id)
        await owner.write(log, 3, 4)
        before = await place.log(sub.request_id)
        await _forgotten(place, proxy, owner, snapshot)
        await owner.write(log, 5)
        await owner.finish(log)
        after = await place.log(sub.request_id)
        assert after[: len(before)] == before  # ids and bytes are frozen
        assert values(after) == [1, 2, 3, 4, 5]
        assert await read_to_end(sub) == after


@on_loop
async def test_a_claim_that_the_server_forgot_is_restored(redis_server: RedisServer) -> None:
    async with Proxy(redis_server.url) as proxy, Place(redis_server.url) as place:
        owner, client = await place.owner(proxy.url), await place.client()
        sub = await client.submit()
        snapshot = await place.snapshot(sub.request_id)
        log = await owner.run(sub.request_id)
        await owner.write(log, 1)
        await _forgotten(place, proxy, owner, snapshot)
        assert await place.state(sub.request_id) == "QUEUED"
        await owner.write(log, 2)
        await owner.finish(log)
        events = await read_to_end(sub)
        assert values(events) == [1, 2]
        assert events[0].id == EventId(log.attempt.epoch, 0)
        assert await place.do("ZSCORE", place.keys.queued, sub.request_id) is None


@on_loop
async def test_a_forgotten_record_is_restored_only_by_a_new_server(redis_server: RedisServer) -> None:
    async with Proxy(redis_server.url) as proxy, Place(redis_server.url) as place:
        owner, client = await place.owner(proxy.url), await place.client()
        sub = await client.submit()
        attempt = await owner.claim(sub.request_id)
        attempt.message = lambda: b"the message"
        log = owner.open(attempt)
        await owner.write(log, 1)
        log.run_id = "of the server before"
        await _forgotten(place, proxy, owner, dict.fromkeys(await place.snapshot(sub.request_id)))
        await owner.write(log, 2)
        assert await place.field(sub.request_id, "message") == "the message"
        record = await place.ledger.get(sub.request_id, place.namespace)
        assert (record.state, record.owner, record.ignore_result) == ("RUNNING", owner.lease, True)
        await owner.finish(log)
        assert values(await read_to_end(sub)) == [1, 2]
    async with Proxy(redis_server.url) as proxy, Place(redis_server.url) as place:
        owner, request_id = await place.owner(proxy.url), await place.submit()
        log = await owner.run(request_id)
        await _forgotten(place, proxy, owner, dict.fromkeys(await place.snapshot(request_id)))
        await eventually(lambda: owner.deaths)
        assert type(owner.deaths[0]) is RequestNotFoundError


@on_loop
async def test_an_end_that_the_server_forgot_is_written_again(redis_server: RedisServer) -> None:
    async with Proxy(redis_server.url) as proxy, Place(redis_server.url) as place:
        owner, request_id = await place.owner(proxy.url), await place.submit()
        log = await owner.run(request_id)
        await owner.write(log, 1)
        snapshot = await place.snapshot(request_id)
        await owner.finish(log)
        owner.writer.forget(log)
        before = await place.log(request_id)
        await _forgotten(place, proxy, owner, snapshot)
        await eventually(lambda: _is(place, request_id, "SUCCEEDED"))
        assert await place.log(request_id) == before
        assert owner.deaths == []


async def _is(place: Place, request_id: str, state: str) -> bool:
    return await place.state(request_id) == state


@on_loop
async def test_a_restored_claim_does_not_overrule_a_later_one(redis_server: RedisServer) -> None:
    async with Proxy(redis_server.url) as proxy, Place(redis_server.url) as place:
        one, two, request_id = await place.owner(proxy.url), await place.owner(), await place.submit()
        snapshot = await place.snapshot(request_id)
        log = await one.run(request_id)
        await one.write(log, "a")
        proxy.refuse()
        await one.die()
        await place.forget(snapshot)
        new = await two.run(request_id)
        proxy.refuse(False)
        await eventually(lambda: one.deaths)
        assert type(one.deaths[0]) is FencedError
        await two.write(new, "b")
        await two.finish(new)
        assert values(await place.log(request_id)) == ["b"]


@on_loop
async def test_a_claim_whose_predecessor_is_forgotten_cannot_be_restored(redis_server: RedisServer) -> None:
    async with Proxy(redis_server.url) as proxy, Place(redis_server.url) as place:
        one, two, request_id = await place.owner(), await place.owner(proxy.url), await place.submit()
        old = await one.run(request_id)
        snapshot = await place.snapshot(request_id)
        await one.write(old, "a")
        await one.die()
        await two.run(request_id)
        await _forgotten(place, proxy, two, snapshot)
        await eventually(lambda: two.deaths)
        assert type(two.deaths[0]) is StreamDivergedError
        assert await place.field(request_id, "owner") == f"{one.lease:x}"  # nothing was overwritten


@on_loop
async def test_scripts_that_the_server_lost_are_loaded_again(own_server: RedisServer) -> None:
    async with Place(own_server.url) as place:
        owner, sub, log = await place.running()
        await place.do("SCRIPT", "FLUSH")
        log.append(1)
        await owner.finish(log)
        assert values(await read_to_end(sub)) == [1]


@on_loop
async def test_an_epoch_above_mine_in_the_log_is_enough_to_fence(redis_server: RedisServer) -> None:
    """Even where the record still names me: the log decides."""
    async with Place(redis_server.url) as place:
        owner, request_id = await place.owner(), await place.submit()
        log = await owner.run(request_id)
        await place.do("XADD", place.keys.stream(request_id), f"{log.attempt.epoch + 1}-0", "k", "0-0|2|1")
        log.append("x")
        await eventually(lambda: owner.deaths)
        assert type(owner.deaths[0]) is FencedError


@on_loop
async def test_a_full_server_delays_and_loses_nothing(own_server: RedisServer) -> None:
    async with Place(own_server.url) as place:
        owner, request_id = await place.owner(), await place.submit()
        log = await owner.run(request_id)
        await place.do("CONFIG", "SET", "maxmemory", 1)
        flushes = owner.writer.flushes
        log.append(1)
        done = log.finish(DONE, b"", settled=True)
        await asyncio.wait([done], timeout=0.3)
        assert (done.done(), owner.writer.flushes) == (False, flushes)
        await place.do("CONFIG", "SET", "maxmemory", 0)
        assert await done == "OK"
        assert values(await place.log(request_id)) == [1]


@on_loop
async def test_an_event_of_a_megabyte_passes(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        owner, client = await place.owner(), await place.client()
        sub = await client.submit()
        log = await owner.run(sub.request_id)
        big = ["x" * (1 << 20), "y" * (3 << 20)]
        await owner.write(log, *big)
        await owner.finish(log)
        live, again = await read_to_end(sub), await read_to_end(await client.join(sub.request_id))
        assert values(live) == values(again) == big
        assert msgspec.msgpack.decode(live[1].data)[0] == big[0]
