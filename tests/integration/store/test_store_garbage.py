"""Anybody who reaches the server may write anything: what cannot be read harms nothing else, and is never unpickled."""

from __future__ import annotations

import asyncio
import pickle
from pathlib import Path

import msgspec
import pytest

from dynamo_tasks.errors import ProtocolError
from dynamo_tasks.protocol.instances import InstanceInfo
from dynamo_tasks.protocol.names import Subject
from dynamo_tasks.store.redis.pubsub import Channels
from dynamo_tasks.store.registry import Registry
from dynamo_tasks.store.topics.topic import Topic
from tests.support.bomb import Bomb
from tests.support.server import RedisServer
from tests.support.streams import Place, on_loop, read_to_end, values


@pytest.fixture
def bomb(tmp_path: Path) -> bytes:
    return pickle.dumps(Bomb(tmp_path / "exploded"))


@pytest.fixture(autouse=True)
def nothing_explodes(tmp_path: Path) -> object:
    yield
    assert not (tmp_path / "exploded").exists()


@on_loop
async def test_pushes_that_nobody_can_read_are_passed_over(
    redis_server: RedisServer, bomb: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with Place(redis_server.url) as place:
        owner, client = await place.owner(), await place.client()
        sub = await client.submit()
        log = await owner.run(sub.request_id)
        await owner.write(log, 1)
        epoch = log.attempt.epoch
        garbage = [
            bomb, b"", b"\xc1", b"[]", msgspec.msgpack.encode([["id"]]), msgspec.msgpack.encode({"a": 1}),
            *[msgspec.msgpack.encode([[sub.request_id, event, kind, bomb]]) for event, kind in (
                ("x", "c"), ("9-9-9", "k"), (f"{epoch + 1}-0", "k"), (f"{epoch + 1}-0", "e"), (f"{2**80}-0", "k"),
            )],
        ]  # fmt: skip
        for payload in garbage:
            await place.do("PUBLISH", client.reader.channel, payload)
        await owner.write(log, 2)
        await owner.finish(log)
        assert values(await read_to_end(sub)) == [1, 2]
        assert "store.connection_lost" not in caplog.text


@pytest.mark.parametrize("kind", ["k", "e", "bad fields"])
@on_loop
async def test_a_log_that_cannot_be_read_ends_its_own_stream_only(
    redis_server: RedisServer, bomb: bytes, kind: str
) -> None:
    async with Place(redis_server.url) as place:
        owner, client = await place.owner(), await place.client()
        bad, good = await client.submit(), await client.submit()
        logs = [await owner.run(sub.request_id) for sub in (bad, good)]
        await owner.write(logs[0], 1)
        fields = [kind, bomb] if kind != "bad fields" else ["a", "1", "b", "2"]
        await place.do("XADD", place.keys.stream(bad.request_id), f"{logs[0].attempt.epoch + 1}-0", *fields)
        with pytest.raises(ProtocolError):
            await read_to_end(bad)
        await owner.write(logs[1], 2)
        await owner.finish(logs[1])
        assert values(await read_to_end(good)) == [2]


@on_loop
async def test_registrations_that_cannot_be_read_hide_no_others(
    redis_server: RedisServer, bomb: bytes
) -> None:
    async with Place(redis_server.url) as place:
        registry, lease = Registry(place.store), 0xABC
        info = InstanceInfo("Worker", "generate", place.namespace, lease, {"celery": "q"})
        await registry.register(place.namespace, lease, [info])
        for number, data in enumerate((bomb, b"{}", b"", b'{"component": 1}')):
            await place.do("SADD", place.keys.instances, f"Worker:generate:{number}")
            await place.do("SET", place.keys.registration(f"Worker:generate:{number}"), data)
            await place.do("SET", place.keys.load(number), data)
        assert [found.lease_id for found in await registry.instances(place.namespace)] == [lease]
        assert set(await registry.loads(place.namespace, [0, 1, 2, 3])) == {1, 3}


@on_loop
async def test_events_that_cannot_be_read_are_passed_over(redis_server: RedisServer, bomb: bytes) -> None:
    async with Place(redis_server.url) as place:
        channels = Channels(place.store)
        topic = Topic(place.store, channels)
        subject = Subject.make(place.namespace, "Worker", "news")
        async with topic.subscribe(subject) as events:
            for data in [bomb] * 40:
                await place.do("XADD", place.keys.events(str(subject)), "*", "p", data)
            await topic.publish(subject, {"n": 1})
            async with asyncio.timeout(10):
                assert (await anext(events)).data() == {"n": 1}
        async with topic.subscribe(subject, since=0, group="g") as events, asyncio.timeout(20):
            assert (await anext(events)).data() == {"n": 1}
        pending = await place.do("XPENDING", place.keys.events(str(subject)), "g")
        assert pending[0] <= 1  # the one that was given; what was passed over is no debt
        await channels.close()
