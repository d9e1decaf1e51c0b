"""What the store counts and logs."""

from __future__ import annotations

import logging
import uuid

import pytest

from benchmarks.proxy import Proxy
from dynamo_tasks.observe import metrics
from dynamo_tasks.observe.schema import PREFIX
from dynamo_tasks.protocol.events import End, EventId
from dynamo_tasks.protocol.states import State
from dynamo_tasks.store.ledger.recovery import Recovery
from dynamo_tasks.store.streams import subscription as subscription_module
from tests.support.server import RedisServer
from tests.support.streams import Place, eventually, on_loop, values


class Delta:
    """How much a metric has grown since this was made."""

    def __init__(self, name: str, **labels: str):
        self._name, self._labels = PREFIX + name, labels
        self._before = self._now()

    def _now(self) -> float:
        return metrics.INSTRUMENTS.registry.get_sample_value(self._name, self._labels) or 0.0

    def __call__(self) -> float:
        return self._now() - self._before


def told(caplog: pytest.LogCaptureFixture, name: str, request_id: str) -> dict:
    """The fields of a logged event of a request."""
    found = [r.fields for r in caplog.records if getattr(r, "event", "") == name]  # type: ignore[attr-defined]
    (fields,) = [one for one in found if one.get("request_id") == request_id]
    return dict(fields)


@on_loop
async def test_a_submit_is_counted_once(redis_server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="dynamo_tasks")
    async with Place(redis_server.url) as place:
        submitted = Delta("requests_submitted_total", endpoint=str(place.endpoint))
        key = uuid.uuid4().hex
        request_id = await place.submit(idempotency_key=key, digest="d", priority=3)
        assert await place.submit(idempotency_key=key, digest="d") == request_id
        assert submitted() == 1
        assert told(caplog, "request.submitted", request_id)["priority"] == 3


@on_loop
async def test_a_lost_connection_is_counted_and_its_logs_resynced(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="dynamo_tasks")
    async with Place(redis_server.url) as place, Proxy(redis_server.url) as proxy:
        owner = await place.owner(proxy.url)
        log = await owner.run(await place.submit())
        reconnected = Delta("reconnects_total", connection="writer")
        flushes = Delta("writer_flush_seconds_count")
        proxy.cut()
        await owner.write(log, 1)
        assert reconnected() == 1
        assert flushes() >= 1
        await eventually(lambda: any(getattr(r, "event", "") == "stream.resync" for r in caplog.records))
        resync = next(r.fields for r in caplog.records if getattr(r, "event", "") == "stream.resync")  # type: ignore[attr-defined]
        assert (resync["open"], resync["lost"]) == (1, 0)


@on_loop
async def test_a_slow_reader_is_counted_once(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription_module, "BUFFER", 8)
    slow, gaps = Delta("reader_slow_total"), Delta("reader_gaps_total")
    fell_back = Delta("reader_xranges_total", reason="slow")
    async with Place(redis_server.url) as place:
        owner, sub, log = await place.running()
        for n in range(50):
            await owner.write(log, n)
        await owner.finish(log)
        assert values([event async for event in sub]) == list(range(50))
    assert slow() == 1
    assert fell_back() >= 1
    assert gaps() == 0


@on_loop
async def test_a_reader_ahead_of_the_log_is_notified(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    diverged = Delta("reader_diverged_total")
    async with Place(redis_server.url) as place:
        client = await place.client()
        sub = await client.submit()
        sub.cursor.last = EventId(1, 5)
        sub.diverged()
        assert told(caplog, "stream.diverged", sub.request_id)["applied"] == "1-5"
    assert diverged() == 1


@on_loop
async def test_ends_that_no_worker_brings_about(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="dynamo_tasks")
    async with Place(redis_server.url) as place:
        endpoint = str(place.endpoint)
        ended = {
            state: Delta("requests_finished_total", endpoint=endpoint, state=state)
            for state in ("EXPIRED", "CANCELLED", "FAILED")
        }
        late, unwanted, poison = [await place.submit() for _ in range(3)]
        for _ in range(2):  # the second one finds it ended
            await place.ledger.expire(place.namespace, late, "late")
            await place.ledger.cancel(place.namespace, unwanted)
        assert told(caplog, "request.expired", late)["endpoint"] == endpoint
        assert told(caplog, "request.cancelled", unwanted)["reason"] == "cancelled"
        for outcome in ("requeued", "requeued", "dead"):
            caplog.clear()
            dead = await place.owner(alive=False)
            await dead.claim(poison)
            await Recovery(place.store).requeue(place.namespace, poison, dead.lease)
            assert told(caplog, "request.requeued", poison)["outcome"] == outcome
        assert {state: delta() for state, delta in ended.items()} == {
            "EXPIRED": 1,
            "CANCELLED": 1,
            "FAILED": 1,
        }


@on_loop
async def test_what_its_owner_ends_is_not_counted_twice(redis_server: RedisServer) -> None:
    """The worker counts it, which knows how long it took."""
    async with Place(redis_server.url) as place:
        owner = await place.owner()
        log = await owner.run(await place.submit())
        counted = Delta("requests_finished_total", endpoint=str(place.endpoint), state="SUCCEEDED")
        await owner.finish(log, End(State.SUCCEEDED, "stop"))
        assert await place.ledger.cancel(place.namespace, log.attempt.id) == "ENDED"
        assert counted() == 0
