"""A request that needs a newer worker is left to one; what a newer release wrote into a record stays there."""

from __future__ import annotations

import pytest

from dynamo_tasks.protocol.events import EventId
from dynamo_tasks.store.ledger import ledger
from dynamo_tasks.store.ledger.claim_refused import ClaimRefused
from dynamo_tasks.store.ledger.fields import Field
from tests.support.server import RedisServer
from tests.support.streams import Place, eventually, on_loop


@on_loop
async def test_an_older_worker_leaves_a_request_to_a_newer_one(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Place(redis_server.url) as place:
        owner = await place.owner()
        request_id = await place.submit(needs=2)
        raw = await place.do("RPOP", place.queue)
        with pytest.raises(ClaimRefused) as refused:
            await owner.claim(request_id)
        assert refused.value.reason == "NEWER"
        assert await place.state(request_id) == "QUEUED"

        async def sent_again() -> bool:
            await place.ledger.upkeep.due(place.namespace)
            return bool(await place.do("LLEN", place.queue))

        await eventually(sent_again, what="its message is in the queue again")
        assert await place.do("LRANGE", place.queue, 0, -1) == [raw]
        monkeypatch.setattr(ledger, "PROTOCOL", 2)
        assert (await owner.claim(request_id)).number == 1


@on_loop
async def test_it_does_not_wait_for_an_older_instance_that_was_chosen(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        owner = await place.owner()
        own_queue = place.endpoint.instance_queue(owner.lease)
        request = place.new(needs=2)
        request.queue = own_queue
        await place.ledger.submit(request)
        with pytest.raises(ClaimRefused):
            await owner.claim(request.id)
        assert await place.field(request.id, "queue") == place.queue


@on_loop
async def test_fields_of_a_newer_release_are_kept_and_restored(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        owner = await place.owner()
        request_id = await place.submit()
        await place.do("HSET", place.keys.record(request_id), "news", "1")
        attempt = await owner.claim(request_id)
        fields = dict(zip(attempt.fields[::2], attempt.fields[1::2], strict=True))
        assert (fields[b"news"], fields[Field.NEEDS.encode()]) == (b"1", b"1")
        changing = (Field.STATE, Field.OWNER, Field.MESSAGE, Field.ATTEMPTS)
        assert not {field.encode() for field in changing} & fields.keys()
        log = owner.open(attempt)
        await owner.write(log, "a")
        assert await owner.finish(log) == "OK"
        assert await place.do("HGET", place.keys.record(request_id), "news") == b"1"


@on_loop
async def test_events_of_a_newer_release_are_no_gap(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        owner, client = await place.owner(), await place.client()
        sub = await client.submit()
        attempt = await owner.claim(sub.request_id)
        key = place.keys.stream(sub.request_id)
        await place.do("XADD", key, "NOMKSTREAM", f"{attempt.epoch}-1", "x", b"\xc1")
        outcome = await owner.ledger.finish(
            attempt, top=EventId(attempt.epoch, 1), end=ledger.End(ledger.State.SUCCEEDED), result=b"", settled=True
        )  # fmt: skip
        assert outcome == "OK"
        assert [event.kind async for event in sub] == ["k", "x", "e"]
