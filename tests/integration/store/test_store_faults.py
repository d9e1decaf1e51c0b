"""Lost replies at every step, a server that dies in mid-stream, races."""

from __future__ import annotations

import asyncio
import random

import pytest

from benchmarks.proxy import Proxy
from dynamo_tasks.errors import DynamoError
from dynamo_tasks.protocol.events import End, Kind
from dynamo_tasks.store.ledger.claim_refused import ClaimRefused
from dynamo_tasks.store.ledger.scripts import script
from dynamo_tasks.store.redis.wire import Wire
from tests.support.server import RedisServer
from tests.support.streams import DONE, Place, ask_again, eventually, on_loop, read_to_end, values


@pytest.mark.parametrize(
    "step", ["submit", "claim", "attach", "XADD", "finish", "release", "settle", "cancel"]
)
@on_loop
async def test_a_lost_reply_changes_nothing(redis_server: RedisServer, step: str) -> None:
    async with Proxy(redis_server.url) as proxy, Place(redis_server.url) as place:
        owner, client = await place.owner(proxy.url), await place.client(proxy.url)
        for name in ("submit", "claim", "attach", "release", "settle", "cancel", "detach"):
            await place.do("SCRIPT", "LOAD", script(name).source)
        needle = b"XADD" if step == "XADD" else script(step).sha.encode()
        if step != "finish":
            proxy.lose_reply_of(needle)
        new = place.new()
        await ask_again(lambda: client.ledger.submit(new))
        attempt = await ask_again(lambda: owner.claim(new.id, nonce="n1"))
        await ask_again(lambda: owner.ledger.release(attempt, retries=0, counts=False))
        attempt = await ask_again(lambda: owner.claim(new.id, nonce="n2"))
        log = owner.open(attempt)
        sub = await ask_again(lambda: client.join(new.id))
        for n in range(5):
            await owner.write(log, n)
        if step == "finish":
            proxy.lose_reply_of(needle)
        if step == "cancel":
            await ask_again(lambda: client.ledger.cancel(place.namespace, new.id))
        else:
            assert await owner.finish(log) == "OK"
        await ask_again(lambda: owner.ledger.settle(place.namespace, new.id))
        assert proxy.lost
        assert proxy.cuts == 1
        events = await read_to_end(sub)
        assert events == await place.log(new.id)
        assert values(events) == list(range(5))
        assert [event.kind for event in events].count(Kind.END) == 1
        assert (await place.ledger.get(new.id)).attempts == 1


@on_loop
async def test_a_server_that_is_killed_in_mid_stream_and_comes_back_on_its_aof(
    own_server: RedisServer,
) -> None:
    async with Place(own_server.url) as place:
        await place.do("CONFIG", "SET", "appendfsync", "always")
        owner, client = await place.owner(), await place.client()
        subs = [await client.submit() for _ in range(8)]
        logs = [await owner.run(sub.request_id) for sub in subs]
        readers = [asyncio.create_task(read_to_end(sub)) for sub in subs]

        async def produce(log) -> None:
            for n in range(60):
                log.append(n)
                await asyncio.sleep(0.002)
            await log.finish(DONE, b"", settled=True)

        producing = [asyncio.create_task(produce(log)) for log in logs]
        await eventually(lambda: all(sub.cursor.last.seq >= 3 for sub in subs))
        own_server.kill()
        await asyncio.to_thread(own_server.start)
        await asyncio.gather(*producing)
        results = await asyncio.gather(*readers)
        for sub, events in zip(subs, results, strict=True):
            assert values(events) == list(range(60))
            assert events == await place.log(sub.request_id)
        assert owner.deaths == []


@on_loop
async def test_a_server_that_comes_back_empty_is_sent_everything(own_server: RedisServer) -> None:
    """Another run_id: record, claim and events are restored; readers notice nothing."""
    async with Place(own_server.url) as place:
        owner, sub, log = await place.running()
        await owner.write(log, 1, 2)
        await place.do("CONFIG", "SET", "appendonly", "no")
        own_server.kill()
        for path in own_server.folder.rglob("*.aof"):
            path.unlink()
        for path in own_server.folder.rglob("*.manifest"):
            path.unlink()
        for path in own_server.folder.rglob("*.rdb"):
            path.unlink()
        await asyncio.to_thread(own_server.start)
        await owner.write(log, 3)
        await owner.finish(log)
        events = await read_to_end(sub)
        assert values(events) == [1, 2, 3]
        assert owner.deaths == []


@on_loop
async def test_a_frozen_server_delays_and_loses_nothing(own_server: RedisServer) -> None:
    async with Place(own_server.url) as place:
        owner, sub, log = await place.running()
        await owner.write(log, 0)
        own_server.freeze()
        for n in range(1, 50):
            log.append(n)
        done = log.finish(DONE, b"", settled=True)
        await asyncio.wait([done], timeout=0.1)
        own_server.thaw()
        await done
        assert values(await read_to_end(sub)) == list(range(50))


@pytest.mark.parametrize("seed", range(4))
@on_loop
async def test_attach_claim_cancel_and_finish_race(redis_server: RedisServer, seed: int) -> None:
    """Whoever wins: exactly one end, all readers agree with the log, nothing is left running."""
    rng = random.Random(seed)
    async with Place(redis_server.url) as place:
        one, two, client, other = await asyncio.gather(
            place.owner(), place.owner(), place.client(), place.client()
        )

        async def later(verb):
            await asyncio.sleep(rng.random() * 0.004)
            return await verb()

        async def run(owner, request_id):
            try:
                log = await owner.run(request_id)
                for n in range(rng.randrange(6)):
                    log.append(n)
                    await asyncio.sleep(0)
                await owner.finish(log)
            except (ClaimRefused, DynamoError):  # refused or fenced: the log decides
                return

        for _ in range(15):
            sub = await client.submit()
            joined, *_ = await asyncio.gather(
                later(lambda sub=sub: other.join(sub.request_id)),
                later(lambda sub=sub: run(one, sub.request_id)),
                later(lambda sub=sub: run(two, sub.request_id)),
                later(lambda sub=sub: place.ledger.cancel(place.namespace, sub.request_id)),
            )
            events = await place.log(sub.request_id)
            assert await read_to_end(sub) == events
            assert await read_to_end(joined) == events
            assert [event.kind for event in events].count(Kind.END) == 1
            assert events[-1].kind == Kind.END
            record = await place.ledger.get(sub.request_id)
            assert record.state == End.decode(events[-1].data).state
            assert record.end == events[-1].id
        assert await place.do("EXISTS", place.keys.owned(one.lease), place.keys.owned(two.lease)) == 0


@on_loop
async def test_thousands_of_idle_readers_cost_little(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process, one subscription: 2,000 silent streams are checked by few commands."""
    async with Place(redis_server.url) as place:
        client = await place.client()
        first = await place.submit()
        subs = [client.reader.expect(place.namespace, first) for _ in range(2000)]
        calls = 0
        execute = Wire.pipeline

        async def counted(wire, commands):
            nonlocal calls
            calls += 1
            return await execute(wire, commands)

        monkeypatch.setattr(Wire, "pipeline", counted)
        now = asyncio.get_running_loop().time
        for sub in subs:
            sub.check_at = now()
        await eventually(lambda: all(sub.check_at > now() for sub in subs))
        assert calls <= 2 * 2000 / 128  # 128 at a time; where the loop is late, some go by themselves
