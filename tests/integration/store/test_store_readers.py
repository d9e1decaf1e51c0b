"""Readers: joining, pushes that do not count, silence, slowness, leaving."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest

from benchmarks.proxy import Proxy
from dynamo_tasks.errors import (
    InvalidEventIdError,
    RequestNotFoundError,
    StreamDivergedError,
    StreamExpiredError,
)
from dynamo_tasks.observe import metrics
from dynamo_tasks.protocol.events import EventId, Kind
from dynamo_tasks.store.ledger.fields import Field
from dynamo_tasks.store.ledger.scripts import script
from dynamo_tasks.store.redis.connection import Link
from dynamo_tasks.store.redis.wire import Wire
from dynamo_tasks.store.streams import reader as reader_module
from dynamo_tasks.store.streams import subscription as subscription_module
from tests.support.server import RedisServer
from tests.support.streams import Client, Place, eventually, on_loop, read_to_end, values


async def push(place: Place, client: Client, request_id: str, event_id: str, *items: Any) -> None:
    """A push that comes from nowhere."""
    event = (request_id, event_id, "c", msgspec.msgpack.encode(list(items)))
    await place.do("PUBLISH", client.reader.channel, msgspec.msgpack.encode([event]))


@on_loop
async def test_readers_live_late_and_behind_an_event_get_the_same(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (reader_module, subscription_module):
        monkeypatch.setattr(module, "FIRST_CHECK", 60.0)  # joining reads the log at once
    async with Place(redis_server.url) as place:
        owner, one, two = await place.owner(), await place.client(), await place.client()
        live = await one.submit()
        log = await owner.run(live.request_id)
        await owner.write(log, 1, 2)
        late, second = await two.join(live.request_id), await one.join(live.request_id)
        behind = await two.join(live.request_id, EventId(log.attempt.epoch, 1))
        await owner.write(log, 3)
        await owner.finish(log)
        events = await place.log(live.request_id)
        for sub in (live, late, second):
            assert await read_to_end(sub) == events
        assert await read_to_end(behind) == events[2:]


@on_loop
async def test_claims_and_ends_are_pushed_by_their_scripts(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A live reader never reads the log: not for another attempt, not for somebody else's end."""
    monkeypatch.setattr(subscription_module, "FIRST_CHECK", 60.0)
    async with Place(redis_server.url) as place:
        one, two, client = await place.owner(), await place.owner(), await place.client()
        before = _logs_read()
        finished, cancelled = await client.submit(), await client.submit()
        for sub in (finished, cancelled):
            log = await one.run(sub.request_id)
            await one.write(log, 1)
        await one.die()
        await two.finish(await two.run(finished.request_id))
        await place.ledger.cancel(place.namespace, cancelled.request_id)
        for sub in (finished, cancelled):
            assert await read_to_end(sub) == await place.log(sub.request_id)
        assert _logs_read() == before


def _logs_read() -> float:
    """How often a reader of this process has read a log, for whatever reason."""
    samples = [sample for one in metrics.INSTRUMENTS.registry.collect() for sample in one.samples]
    return sum(sample.value for sample in samples if sample.name == "dynamo_tasks_reader_xranges_total")


@on_loop
async def test_a_push_that_the_log_refused_is_dropped(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        one, two, client = await place.owner(), await place.owner(), await place.client()
        sub = await client.submit()
        old = await one.run(sub.request_id)
        await one.write(old, "a")
        await one.die()
        new = await two.run(sub.request_id)
        # The flush of the fenced writer: XADD refused, PUBLISH delivered.
        await one.write(old, "refused")
        await two.write(new, "b")
        await two.finish(new)
        assert values(await read_to_end(sub)) == ["a", "b"]


@on_loop
async def test_a_refused_push_does_not_slip_in_while_a_reader_joins_again(redis_server: RedisServer) -> None:
    """The claim was pushed while the reader was away; the late push of the fenced writer is not."""
    async with Proxy(redis_server.url) as proxy, Place(redis_server.url) as place:
        one, two, client = await place.owner(), await place.owner(), await place.client(proxy.url)
        sub = await client.submit()
        old = await one.run(sub.request_id)
        await one.write(old, "a")
        await eventually(lambda: sub.cursor.last == old.top)
        proxy.refuse()
        await one.die()
        new = await two.run(sub.request_id)
        attached = asyncio.Event()
        again = client.reader._attach_again

        async def late(wire: object) -> None:
            await push(place, client, sub.request_id, f"{old.attempt.epoch}-2", "refused")
            await place.do("PING")
            attached.set()
            await again(wire)  # type: ignore[arg-type]

        client.reader._attach_again = late  # type: ignore[method-assign]
        proxy.refuse(False)
        await eventually(lambda: client.reader._subscribed and attached.is_set())
        await two.write(new, "b")
        await two.finish(new)
        assert values(await read_to_end(sub)) == ["a", "b"]


@on_loop
async def test_a_refused_push_does_not_slip_in_while_a_reader_joins(redis_server: RedisServer) -> None:
    """Another reader of this process is subscribed already; the new one must not believe pushes yet."""
    async with Place(redis_server.url) as place:
        one, two, client = await place.owner(), await place.owner(), await place.client()
        live = await client.submit()
        old = await one.run(live.request_id)
        await one.write(old, "a")
        await one.die()
        new = await two.run(live.request_id)
        sub = client.reader._add(place.namespace, live.request_id, old.top)
        await push(place, client, live.request_id, f"{old.attempt.epoch}-2", "refused")
        await two.write(new, "b")
        await eventually(lambda: live.cursor.last == new.top)
        client.reader._read_log([sub], "join")
        await two.finish(new)
        assert values(await read_to_end(sub)) == ["b"]
        assert values(await read_to_end(live)) == ["a", "b"]


@on_loop
async def test_what_is_written_while_a_reader_is_away_or_joins_again_is_not_missed(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SUBSCRIBE → attach → XRANGE → pushes, without any help of the check of silent streams."""
    monkeypatch.setattr(subscription_module, "FIRST_CHECK", 60.0)
    async with Proxy(redis_server.url) as proxy, Place(redis_server.url) as place:
        owner, sub, log = await place.running(client_url=proxy.url)
        for n in range(20):
            if n % 5 == 0:
                proxy.cut()
            await owner.write(log, n)
        await owner.finish(log)
        assert values(await read_to_end(sub)) == list(range(20))


@on_loop
async def test_after_a_reconnect_a_reader_is_noted_again(redis_server: RedisServer) -> None:
    """The ledger lost it meanwhile: without attaching again there would be no pushes."""
    async with Proxy(redis_server.url) as proxy, Place(redis_server.url) as place:
        owner, client = await place.owner(), await place.client(proxy.url)
        sub = await client.submit()
        other = await client.submit()
        await place.do("DEL", place.keys.record(other.request_id))  # must not be in the way
        await place.do("HSET", place.keys.record(sub.request_id), Field.READERS, "")
        proxy.cut()
        await eventually(lambda: _readers(place, sub.request_id, client.reader.channel))
        log = await owner.run(sub.request_id)
        await owner.finish(log)
        assert values(await read_to_end(sub)) == []


async def _readers(place: Place, request_id: str, wanted: str) -> bool:
    return await place.field(request_id, "readers") == wanted


@on_loop
async def test_a_reader_that_lost_pushes_reads_the_log(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gap is mended at once, not by the check of silent streams."""
    monkeypatch.setattr(subscription_module, "FIRST_CHECK", 60.0)
    async with Place(redis_server.url) as place:
        owner, client = await place.owner(), await place.client()
        sub = await client.submit()
        log = await owner.run(sub.request_id)
        log.readers = []
        await owner.write(log, 1, 2)
        log.readers = [client.reader.channel]
        await owner.write(log, 3)
        await eventually(lambda: sub.cursor.last == log.top)
        await owner.finish(log)
        assert values(await read_to_end(sub)) == [1, 2, 3]


@on_loop
async def test_a_silent_stream_is_checked_and_the_checks_back_off(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription_module, "FIRST_CHECK", 0.05)
    monkeypatch.setattr(subscription_module, "LAST_CHECK", 0.2)
    monkeypatch.setattr(reader_module, "_TICK", 0.01)
    async with Place(redis_server.url) as place:
        owner, sub, log = await place.running()
        now = asyncio.get_running_loop().time
        await eventually(lambda: sub.check_at - now() > 0.1, what="backed off")
        await place.do("HSET", place.keys.record(sub.request_id), Field.READERS, "")
        log.readers = []  # from here on nothing is pushed
        await owner.write(log, 1)
        await eventually(lambda: sub.cursor.last == log.top)
        assert sub.check_at - now() <= 0.05  # something came
        await owner.finish(log)
        assert values(await read_to_end(sub)) == [1]


@on_loop
async def test_a_reader_ahead_of_the_log_is_notified(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        one, two, client = await place.owner(), await place.owner(), await place.client()
        sub = await client.submit()
        log = await one.run(sub.request_id)
        await one.write(log, "a")
        snapshot = await place.snapshot(sub.request_id)
        await one.write(log, "forgotten")
        await eventually(lambda: sub.cursor.last == log.top)
        await place.forget(snapshot)  # and its owner is dead
        await one.die()
        new = await two.run(sub.request_id)
        await two.write(new, "b")
        await two.finish(new)
        seen = await sub.next()
        assert values(seen) == ["a", "forgotten"]
        with pytest.raises(StreamDivergedError):
            await sub.next()


@on_loop
async def test_a_reader_ahead_of_the_log_is_notified_when_it_is_cancelled(redis_server: RedisServer) -> None:
    """An end by somebody who is not the owner names what it follows, too."""
    async with Place(redis_server.url) as place:
        one, sub, log = await place.running()
        await one.write(log, "a")
        snapshot = await place.snapshot(sub.request_id)
        await one.write(log, "forgotten")
        await eventually(lambda: sub.cursor.last == log.top)
        await place.forget(snapshot)
        await place.ledger.cancel(place.namespace, sub.request_id)
        await sub.next()
        with pytest.raises(StreamDivergedError):
            await sub.next()


@on_loop
async def test_a_reader_above_the_end_is_notified(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of the server that took over is behind: the epochs of the new log are below the reader's."""
    monkeypatch.setattr(subscription_module, "FIRST_CHECK", 0.05)
    async with Place(redis_server.url) as place:
        one, two, client = await place.owner(), await place.owner(), await place.client()
        sub = await client.submit()
        snapshot = await place.snapshot(sub.request_id)
        await place.do("HSET", place.keys.record(sub.request_id), Field.EPOCH, 9_999_999_999_999)
        log = await one.run(sub.request_id)
        await one.write(log, "ahead")
        await eventually(lambda: sub.cursor.last == log.top)
        await place.forget(snapshot)
        await one.die()
        await two.finish(await two.run(sub.request_id))
        await sub.next()
        with pytest.raises(StreamDivergedError):
            await sub.next()


@on_loop
async def test_who_may_join_and_from_where(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        owner, client = await place.owner(), await place.client()
        request_id = await place.submit(owner_key="mine")
        log = await owner.run(request_id)
        await owner.write(log, 1)
        with pytest.raises(RequestNotFoundError):
            await client.join("unknown")
        with pytest.raises(RequestNotFoundError):
            await client.join(request_id, owner_key="another's")
        beyond = EventId(log.attempt.epoch, 2)
        with pytest.raises(InvalidEventIdError, match="beyond the top"):
            await client.join(request_id, beyond)
        with pytest.raises(InvalidEventIdError):
            await client.join(request_id, EventId(log.attempt.epoch + 1, 0))
        await client.reader.close()
        # None of these was a reader, so none of them leaves: a request that nobody ever read is not abandoned.
        assert await place.field(request_id, "readers") == ""
        assert await place.do("ZSCORE", place.keys.timers, f"a:{request_id}") is None
        client = await place.client()
        at_top = await client.join(request_id, log.top, owner_key="mine")
        await owner.finish(log)
        assert [event.kind for event in await read_to_end(at_top)] == [Kind.END]
        await place.do("DEL", place.keys.stream(request_id))
        with pytest.raises(StreamExpiredError):
            await client.join(request_id)


@on_loop
async def test_a_request_submitted_again_is_read_from_its_start(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A re-run parent's child call: the id is known, its stream has begun."""
    monkeypatch.setattr(subscription_module, "FIRST_CHECK", 60.0)
    async with Place(redis_server.url) as place:
        owner, one, two = await place.owner(), await place.client(), await place.client()
        first = await one.submit(request_id=f"child-{place.namespace}")
        log = await owner.run(first.request_id)
        await owner.write(log, 1)
        second = await two.submit(request_id=first.request_id)
        assert two.reader.channel in str(await place.field(first.request_id, "readers")).split()
        log.set_readers(str(await place.field(first.request_id, "readers")).split())
        await owner.write(log, 2)
        await eventually(lambda: second.cursor.last == log.top)
        await owner.finish(log)
        assert values(await read_to_end(second)) == values(await read_to_end(first)) == [1, 2]


@on_loop
async def test_a_slow_reader_holds_little_and_falls_back_to_the_log(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription_module, "BUFFER", 8)
    monkeypatch.setattr(subscription_module, "HELD", 4)
    async with Place(redis_server.url) as place:
        owner, slow, log = await place.running()
        for n in range(100):
            await owner.write(log, n)
            assert len(slow._held) <= 4
        await owner.finish(log)
        seen = await slow.next()
        assert len(seen) <= 8
        async for event in slow:
            seen.append(event)
            await asyncio.sleep(0)
        assert values(seen) == list(range(100))


@on_loop
async def test_a_buffer_is_bounded_in_bytes(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription_module, "BUFFER_BYTES", 3000)
    async with Place(redis_server.url) as place:
        owner, slow, log = await place.running()
        await owner.write(log, *("x" * 1000 for _ in range(20)))
        await owner.finish(log)
        await eventually(lambda: slow.lagging)
        first = await slow.next()
        assert sum(len(event.data) for event in first) < 5000
        assert values([*first, *await read_to_end(slow)]) == ["x" * 1000] * 20


@on_loop
async def test_databases_of_one_server_do_not_hear_each_other(redis_server: RedisServer) -> None:
    """Channels ignore the database, so their names must not: same namespace, same lease, same ids."""
    async with (
        Place(redis_server.url) as place,
        Place(redis_server.url.removesuffix("/0") + "/1") as elsewhere,
    ):
        owner, request_id = await place.owner(), await place.submit()
        await owner.run(request_id)
        heard: list[bytes] = []
        marker = asyncio.Event()
        channel = elsewhere.store.keys(place.namespace).alive_channel(owner.lease)

        async def subscribe(wire: Wire) -> None:
            await wire.execute("SUBSCRIBE", channel)

        def hear(channel: bytes, payload: bytes) -> None:
            heard.append(payload)
            if payload == b"marker":
                marker.set()

        link = Link(elsewhere.store.address, name="test", on_ready=subscribe, on_message=hear)
        await link.start()
        await place.ledger.cancel(place.namespace, request_id)  # tells its owner to abort
        await elsewhere.do("PUBLISH", channel, "marker")
        await marker.wait()
        await link.close()
        assert heard == [b"marker"]
        here, there = await place.client(), await elsewhere.client()
        assert (":0:" in here.reader.channel, ":1:" in there.reader.channel) == (True, True)
        assert place.keys.registry_channel != elsewhere.store.keys(place.namespace).registry_channel


@on_loop
async def test_a_reader_that_is_stopped_while_it_joins_leaves(redis_server: RedisServer) -> None:
    async with Proxy(redis_server.url) as proxy, Place(redis_server.url) as place:
        owner, client = await place.owner(), await place.client(proxy.url)
        request_id = await place.submit()
        log = await owner.run(request_id)

        async def known(request_id: str, namespace: str | None) -> str:
            return place.namespace

        client.store.find = known  # type: ignore[method-assign]
        proxy.hold()
        joining = asyncio.create_task(client.join(request_id))
        await eventually(lambda: _readers(place, request_id, client.reader.channel))
        joining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await joining
        proxy.flow()
        await eventually(lambda: _readers(place, request_id, ""))
        assert await place.do("ZSCORE", place.keys.timers, f"a:{request_id}") is not None
        await owner.finish(log)


@on_loop
async def test_leaving_is_repeated_until_the_server_knows(redis_server: RedisServer) -> None:
    async with Proxy(redis_server.url) as proxy, Place(redis_server.url) as place:
        owner, client = await place.owner(), await place.client(proxy.url)
        sub, other = await client.submit(), await client.submit()
        proxy.refuse()
        sub.close()
        await eventually(lambda: not client.store.commands.connected)
        proxy.refuse(False)
        await eventually(lambda: _readers(place, sub.request_id, ""))
        proxy.lose_reply_of(script("detach").sha.encode())
        other.close()
        await eventually(lambda: proxy.lost)
        await eventually(lambda: client.store.commands.connected)
        await client.reader.close()
        # It is known to have happened: else it would still be found by its name there.
        assert await place.do("SISMEMBER", place.keys.clients, client.reader.channel) == 0
        for one in (sub, other):
            await owner.finish(await owner.run(one.request_id))


@on_loop
async def test_readers_leave_together(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one write, also where Redis has forgotten the script, and where one of the records is something else."""
    sent: list[int] = []
    pipeline = Wire.pipeline

    async def spy(wire: Wire, commands: Iterable[Any]) -> list[Any]:
        commands = list(commands)
        sent.append(sum(command[0] == "EVALSHA" for command in commands))
        return await pipeline(wire, commands)

    monkeypatch.setattr(Wire, "pipeline", spy)
    async with Place(redis_server.url) as place:
        client = await place.client()
        subs = [await client.submit() for _ in range(10)]
        other = subs.pop()
        await place.do("DEL", place.keys.record(other.request_id))
        await place.do("SET", place.keys.record(other.request_id), "something else")
        again = await client.join(subs[0].request_id)
        await place.do("SCRIPT", "FLUSH")
        sent.clear()
        for sub in (*subs, other):
            sub.close()
        for sub in subs[1:]:
            await eventually(lambda sub=sub: _readers(place, sub.request_id, ""))  # type: ignore[misc]
        # All but the one that is read by another; twice, for the server did not know the script.
        assert sent[:2] == [9, 9]
        assert await _readers(place, again.request_id, client.reader.channel)
        again.close()
        await client.reader.close()
        assert await _readers(place, again.request_id, "")
        assert await place.do("EXISTS", place.keys.clients) == 0
        await place.do("DEL", place.keys.record(other.request_id))


@on_loop
async def test_a_request_that_the_server_forgot_ends_with_a_clear_error(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription_module, "FIRST_CHECK", 0.05)
    monkeypatch.setattr(subscription_module, "GONE_AFTER", 0.2)
    async with Place(redis_server.url) as place:
        client = await place.client()
        sub = await client.submit()
        await place.do("DEL", place.keys.record(sub.request_id))
        with pytest.raises(RequestNotFoundError, match="forgot"):
            await sub.next()


@on_loop
async def test_two_readers_of_one_process_come_and_go_independently(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        owner, client = await place.owner(), await place.client()
        one = await client.submit()
        two = await client.join(one.request_id)
        log = await owner.run(one.request_id)
        await owner.write(log, 1)
        one.close()
        await owner.write(log, 2)
        assert await place.field(one.request_id, "readers") == client.reader.channel
        await owner.finish(log)
        assert values(await read_to_end(two)) == [1, 2]
        assert two.saw_end
