"""What is wanted of components, on a real server."""

from __future__ import annotations

import pytest

from dynamo_tasks.errors import ConfigError
from dynamo_tasks.protocol.instances import InstanceInfo, ModelCard
from dynamo_tasks.protocol.scale import Bounds, Fleet, Scale, ScaledBy
from dynamo_tasks.store.scales import FLEET_TTL, Scales
from tests.support.server import RedisServer
from tests.support.streams import Place, on_loop
from tests.support.wait_queue import WaitQueue

BOUNDS = Bounds(min=0, max=2, idle=60.0)


async def one(scales: Scales) -> Scale:
    return (await scales.read())[0]["Worker"]


@on_loop
async def test_one_decides_and_a_hand_goes_before(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        scales = Scales(place.store, place.namespace)
        await scales.deploy("Worker", BOUNDS)
        assert not await scales.want("Worker", 1, ScaledBy.QUEUE, lead="a"), "nobody leads"
        assert await scales.lead("a", ["Worker"])
        assert not await scales.lead("b", ["Worker"])
        assert await scales.want("Worker", 1, ScaledBy.QUEUE, lead="a")
        assert not await scales.want("Worker", 2, ScaledBy.QUEUE, lead="b")
        assert (await one(scales)).wanted == 1

        await scales.want("Worker", 2, ScaledBy.HAND)
        assert not await scales.want("Worker", 0, ScaledBy.IDLE, lead="a")
        with pytest.raises(ConfigError, match="3 instances are not allowed; its `scale` allows 0 to 2"):
            await scales.want("Worker", 3, ScaledBy.HAND)
        await scales.want("Worker", None, ScaledBy.HAND)
        assert (await one(scales)).wanted is None
        await scales.leave("a", ["Worker"], ["Worker"])
        assert await scales.lead("b", ["Worker"])


@on_loop
async def test_other_bounds_change_what_was_wanted(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        scales = Scales(place.store, place.namespace)
        await scales.deploy("Worker", BOUNDS)
        await scales.lead("a", ["Worker"])
        await scales.want("Worker", 0, ScaledBy.IDLE, lead="a")
        await scales.deploy("Worker", None)
        assert "Worker" not in (await scales.read())[0], "what idling wanted went with it"
        await scales.want("Worker", 0, ScaledBy.HAND)
        await scales.deploy("Worker", Bounds(min=1, max=4))
        assert ((await one(scales)).wanted, (await one(scales)).by) == (1, ScaledBy.HAND)


@on_loop
async def test_what_was_said_long_ago_is_not_believed(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        scales = Scales(place.store, place.namespace)
        _, now = await scales.read()
        await scales.report("old", {"Worker": Fleet(running=1, at=now - FLEET_TTL - 1)})
        await scales.report("new", {"Worker": Fleet(running=2, at=now)})
        assert list((await one(scales)).fleets) == ["new"]
        await scales.tidy(now + 90)
        assert (await scales.read())[0] == {}


@on_loop
async def test_models_stay_until_they_are_forgotten(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        scales = Scales(place.store, place.namespace)
        info = InstanceInfo(
            component="Worker", endpoint="generate", namespace=place.namespace, lease_id=7, transport={"celery": "q"},
            pid=1, model=ModelCard("tiny"),
        )  # fmt: skip
        await scales.keep_cards("Worker", [info])
        await scales.keep_cards("Other", [])
        (kept,) = await scales.cards()
        assert (kept.model, kept.lease_id, kept.pid) == (info.model, 0, 0)
        await place.do("HSET", place.store.keys(place.namespace).cards, "Worker:embed", "no json")
        assert len(await scales.cards()) == 1, "what cannot be read hides nothing"
        await scales.forget("Worker")
        assert await scales.cards() == []


TURNS = Bounds(min=0, share="gpu0")


@on_loop
async def test_one_of_those_that_share_a_device_is_wanted(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        scales = Scales(place.store, place.namespace)
        for name in ("small", "large"):
            await scales.deploy(name, TURNS)
        assert await scales.lead("a", ["=gpu0", "Worker"]) == {"=gpu0", "Worker"}
        assert await scales.lead("b", ["=gpu0", "Other"]) == {"Other"}
        assert await scales.want("small", 1, ScaledBy.QUEUE, lead="a")
        assert not await scales.want("large", 1, ScaledBy.QUEUE, lead="a"), "it is the turn of another one"
        await scales.want("large", 1, ScaledBy.HAND)
        found, _ = await scales.read()
        assert (found["small"].wanted, found["small"].by) == (0, ScaledBy.TURN)
        with pytest.raises(ConfigError, match="large has their device by hand"):
            await scales.want("small", 1, ScaledBy.HAND)


@on_loop
async def test_nothing_begins_while_another_one_is_awake(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        scales = Scales(place.store, place.namespace)
        for name in ("small", "large"):
            await scales.deploy(name, TURNS)
        now = (await scales.read())[1]
        assert not await scales.occupy("small", "a", Fleet(starting=1, at=now)), "it is not wanted"
        await scales.want("small", 1, ScaledBy.HAND)
        assert await scales.occupy("small", "a", Fleet(starting=1, at=now))
        assert (await scales.read())[0]["small"].starting == 1, "what begins is noted in the same step"
        await scales.want("small", 0, ScaledBy.HAND)
        await scales.want("large", 1, ScaledBy.HAND)
        for fleet in (Fleet(running=1, at=now), Fleet(draining=1, at=now)):
            await scales.report("a", {"small": fleet})
            assert not await scales.occupy("large", "b", Fleet(starting=1, at=now))
        await scales.report("a", {"small": Fleet(asleep=1, at=now)})
        assert await scales.occupy("large", "b", Fleet(starting=1, at=now))
        await scales.report("a", {"small": Fleet(running=1, at=now - FLEET_TTL - 1)})
        assert await scales.occupy("large", "b", Fleet(starting=1, at=now)), "who is silent for long is gone"


@on_loop
async def test_the_most_urgent_of_what_waits_and_runs(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        scales, line = Scales(place.store, place.namespace), WaitQueue(place)

        async def steps() -> tuple[int, int]:
            return (await scales.steps(["Other", "Worker"]))["Worker"]

        assert await steps() == (9, 9), "there is nothing"
        await line.submit(count=3, priority=9)
        (urgent,) = await line.submit(priority=4)
        assert await steps() == (3, 9)
        assert await line.pop() == urgent
        await line.claim(urgent, 1)
        assert await steps() == (9, 3)


@on_loop
async def test_one_urgent_request_is_seen_among_many(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        scales, line = Scales(place.store, place.namespace), WaitQueue(place)
        await line.submit(count=90, priority=9)
        assert await scales.steps(["Worker"]) == {"Worker": (9, 9)}
        (gone,) = await line.submit(priority=0)
        await place.ledger.cancel(place.namespace, gone)
        assert await scales.steps(["Worker"]) == {"Worker": (9, 9)}, (
            "its message lies there, and nobody waits for it"
        )
        (urgent,) = await line.submit(priority=0)
        assert await scales.steps(["Worker"]) == {"Worker": (0, 9)}
        assert (await line.pop(), await line.pop()) == (gone, urgent)
        await line.claim(urgent, 1)
        assert await scales.steps(["Worker"]) == {"Worker": (9, 0)}
