"""Limits of single API keys on the server."""

from __future__ import annotations

import asyncio

import pytest

from dynamo_tasks.protocol.http.limits import KeyLimits
from dynamo_tasks.store.accounts.quota import Quota
from dynamo_tasks.store.redis.server import Store
from tests.support.server import RedisServer
from tests.support.streams import DONE, Place, on_loop


@on_loop
async def test_a_minutes_worth_at_once_then_one_at_a_time(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        quota, limits = Quota(place.store), KeyLimits(requests_per_minute=5)
        taken = [await quota.take(place.namespace, "k", limits) for _ in range(7)]
        assert [one.remaining for one in taken] == [4, 3, 2, 1, 0, 0, 0]
        assert [bool(one.reason) for one in taken] == [False] * 5 + [True] * 2
        assert taken[6].retry_after == pytest.approx(12, abs=1)
        assert taken[6].reset == pytest.approx(60, abs=1)
        full_at = float(await place.do("GET", place.keys.rate("k")))
        await place.do("SET", place.keys.rate("k"), str(full_at - 12_000))
        assert not (await quota.take(place.namespace, "k", limits)).reason
        assert (await quota.take(place.namespace, "other", limits)).remaining == 4


@on_loop
async def test_many_frontends_count_together(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        stores = [await Store.connect(redis_server.url) for _ in range(3)]
        limits = KeyLimits(requests_per_minute=20, concurrent_requests=9)
        taken = await asyncio.gather(
            *(Quota(stores[n % 3]).take(place.namespace, "k", limits, f"id{n}") for n in range(30))
        )
        assert sum(not one.reason for one in taken) == 9
        for store in stores:
            await store.close()


@on_loop
async def test_what_has_ended_makes_room(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        quota, limits, owner = Quota(place.store), KeyLimits(concurrent_requests=2), await place.owner()
        finished, cancelled = [await place.submit() for _ in range(2)]
        for request_id in (finished, cancelled):
            assert not (await quota.take(place.namespace, "k", limits, request_id)).reason
        refused = await quota.take(place.namespace, "k", limits, "third")
        assert "2 requests have not ended" in refused.reason
        assert refused.retry_after
        await owner.finish(await owner.run(finished), DONE)
        assert not (await quota.take(place.namespace, "k", limits, "third")).reason
        assert (await quota.take(place.namespace, "k", limits, "fourth")).reason
        await place.ledger.cancel(place.namespace, cancelled)
        assert not (await quota.take(place.namespace, "k", limits, "fourth")).reason


@on_loop
async def test_what_was_never_submitted_leaves_no_place_taken(redis_server: RedisServer) -> None:
    """A submit that was refused gives its place back; that of a dead frontend is free after a while."""
    async with Place(redis_server.url) as place:
        quota, limits = Quota(place.store), KeyLimits(concurrent_requests=1)
        assert not (await quota.take(place.namespace, "k", limits, "refused")).reason
        assert (await quota.take(place.namespace, "k", limits, "next")).reason
        await quota.release(place.namespace, "k", "refused")
        assert not (await quota.take(place.namespace, "k", limits, "lost")).reason
        await place.do("ZINCRBY", place.keys.open("k"), -11_000, "lost")
        assert not (await quota.take(place.namespace, "k", limits, "next")).reason
