"""What a request costs the server once it is over."""

from __future__ import annotations

import hashlib
import json
import time

import msgspec
import pytest

from dynamo_tasks.frontend.openai.render import Render
from dynamo_tasks.protocol.events import End, ErrorInfo
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.protocol.options import RequestOptions
from dynamo_tasks.protocol.states import State
from dynamo_tasks.queue.broker.envelope import build_request
from dynamo_tasks.store.ledger.claim_refused import ClaimRefused
from dynamo_tasks.store.ledger.fields import Field
from dynamo_tasks.store.ledger.ledger import cancelled
from dynamo_tasks.store.ledger.recovery import Recovery
from tests.support.server import RedisServer
from tests.support.streams import Client, Place, on_loop

KEEPS = 640
"""Bytes of a settled record; 16 fields of which none is long."""
USAGE = {"prompt_tokens": 500, "completion_tokens": 64, "cached_tokens": 32}


async def _submit(place: Place, client: Client, **more: object) -> str:
    """As a frontend with API keys does it: 500 tokens of prompt, a deadline, a chat."""
    made = build_request(
        EndpointId(place.namespace, "Worker", "generate"), "0" * 36,
        {"prompt_token_ids": list(range(1000, 1500)), "max_tokens": 64, "model": "some-model-70b"},
        RequestOptions(ignore_result=True), queue=place.queue, prefix="",
    )  # fmt: skip
    owner = hashlib.sha256(b"key").hexdigest()
    render = Render("chat", "0" * 36, "some-model-70b", int(time.time()), include_usage=True).encode()
    sub = await client.submit(
        message=made.message, render=render, owner_key=owner, tenant=owner, deadline=time.time() + 60, **more
    )
    return sub.request_id


async def _size(place: Place, request_id: str) -> int:
    return int(await place.do("MEMORY", "USAGE", place.keys.record(request_id), "SAMPLES", "0"))


@on_loop
async def test_a_request_that_succeeded(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        owner, client = await place.owner(), await place.client()
        request_id = await _submit(place, client)
        before = await _size(place, request_id)
        log = await owner.run(request_id)
        await owner.write(log, "a")
        assert await owner.finish(log, End(State.SUCCEEDED, "stop", usage=USAGE)) == "OK"
        assert before > 3000
        assert await _size(place, request_id) < KEEPS
        assert 0 < await place.do("PTTL", place.keys.record(request_id)) <= 24 * 3600 * 1000
        await place.do("DEL", place.keys.stream(request_id))
        record = await place.ledger.get(request_id, place.namespace)
        assert (record.state, record.finish_reason, record.usage) == (State.SUCCEEDED, "stop", USAGE)
        assert (record.attempts, record.end, record.owner_key) == (
            1,
            log.end_id,
            hashlib.sha256(b"key").hexdigest(),
        )
        assert Render.decode(record.render, request_id).model == "some-model-70b"
        assert await owner.finish(log, End(State.SUCCEEDED, "stop")) == "OK", "asked again"


@on_loop
async def test_a_request_that_was_cancelled(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        client = await place.client()
        request_id = await _submit(place, client)
        await place.ledger.cancel(place.namespace, request_id)
        assert await _size(place, request_id) < 2 * KEEPS, "an error is a long field: another encoding"
        record = await place.ledger.get(request_id, place.namespace)
        assert (record.state, record.finish_reason, record.usage) == (State.CANCELLED, "cancelled", None)
        assert record.error == cancelled().error


@on_loop
async def test_what_celery_needs_stays_until_its_completion_is_done(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        owner, client = await place.owner(), await place.client()
        request_id = await _submit(place, client, ignore_result=False)
        log = await owner.run(request_id)
        await log.finish(End(State.SUCCEEDED, "stop"), b'"result"', settled=False)
        await owner.die()
        assert await Recovery(place.store).requeue(place.namespace, request_id, owner.lease) == "SETTLE"
        other = await place.owner()
        with pytest.raises(ClaimRefused) as refused:
            await other.claim(request_id)
        assert json.loads(refused.value.result) == "result"
        await other.ledger.settle(place.namespace, request_id)
        assert await _size(place, request_id) < KEEPS


@on_loop
async def test_what_is_in_the_dead_list_can_be_run_again(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        client = await place.client()
        request_id = await _submit(place, client, priority=5)
        for _ in range(3):
            owner = await place.owner()
            await owner.run(request_id)
            await owner.die()
            await Recovery(place.store).requeue(place.namespace, request_id, owner.lease)
        assert await place.state(request_id) == "FAILED"
        found = await place.do(
            "HMGET",
            place.keys.record(request_id),
            Field.QUEUE,
            Field.SUFFIX,
            Field.DEAD_MESSAGE,
            Field.MESSAGE,
        )
        assert found[0] == place.queue.encode()
        assert found[1]
        assert found[2]
        assert found[3] is None
        assert msgspec.json.decode(
            await place.do("HGET", place.keys.record(request_id), Field.ERROR), type=ErrorInfo
        )
