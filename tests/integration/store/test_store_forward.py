"""A request that its owner forwards, and what waits in the queue of an instance that is gone."""

from __future__ import annotations

import pytest

from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.router.late import Marks
from dynamo_tasks.store.ledger.claim_refused import ClaimRefused
from dynamo_tasks.store.ledger.forwarding import forward
from dynamo_tasks.store.ledger.ledger import Attempt
from dynamo_tasks.store.ledger.recovery import Recovery
from dynamo_tasks.store.routing.late import LateQueue
from tests.support.server import RedisServer
from tests.support.streams import DONE, Owner, Place, on_loop, read_to_end, values

CHOSEN = 0xAB


def _target(place: Place) -> EndpointId:
    return EndpointId(place.namespace, "Engine", place.endpoint.name)


async def _forward(place: Place, owner: Owner, attempt: Attempt) -> str:
    return await forward(owner.store, attempt, _target(place), CHOSEN, b'{"id": "%s"}' % attempt.id.encode())


async def _register(place: Place) -> None:
    await place.do("SET", place.keys.registration(f"Engine:generate:{CHOSEN:x}"), "{}")
    await place.do("SET", place.keys.lease(CHOSEN), "1")
    await place.do("SADD", place.keys.leases, f"{CHOSEN:x}")


async def _waiting(place: Place) -> tuple[int, int]:
    """Messages in the queue of the chosen instance, and in the shared one."""
    target = _target(place)
    own, shared = target.instance_queue(CHOSEN), target.queue
    return int(await place.do("LLEN", own)), int(await place.do("LLEN", shared))


@on_loop
async def test_a_forwarded_request_keeps_its_stream_and_its_attempts(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        router, worker, client = await place.owner(), await place.owner(), await place.client()
        await _register(place)
        sub = await client.submit()
        attempt = await router.claim(sub.request_id)
        assert await _forward(place, router, attempt) == "OK"
        assert await _forward(place, router, attempt) == "OK"  # the reply was lost
        assert await _waiting(place) == (1, 0)
        assert await place.field(sub.request_id, "endpoint") == str(_target(place))
        log = await worker.run(sub.request_id, endpoint=_target(place))
        assert (log.attempt.number, log.attempt.readers) == (1, [client.reader.channel])
        assert await _forward(place, router, attempt) == "FENCED"
        await worker.write(log, "a", "b")
        await worker.finish(log)
        assert values(await read_to_end(sub)) == ["a", "b"]


@on_loop
async def test_a_message_from_before_the_forward_is_dropped(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        router, other, worker = await place.owner(), await place.owner(), await place.owner()
        attempt = await router.claim(await place.submit())
        await _forward(place, router, attempt)
        for state in ("QUEUED", "RUNNING", "SUCCEEDED"):
            assert await place.field(attempt.id, "state") == state
            with pytest.raises(ClaimRefused) as caught:
                await other.claim(attempt.id)
            assert caught.value.reason == "DUPLICATE"
            if state == "QUEUED":
                log = await worker.run(attempt.id, endpoint=_target(place))
            elif state == "RUNNING":
                await log.finish(DONE, b"", settled=False)
                await worker.die()
        components = (place.endpoint.component, _target(place).component)
        assert not await place.do("EXISTS", *(place.keys.running(one) for one in components))


@on_loop
async def test_without_its_registration_the_chosen_instance_gets_nothing(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        router = await place.owner()
        attempt = await router.claim(await place.submit())
        assert await _forward(place, router, attempt) == "SHARED"
        assert await _forward(place, router, attempt) == "SHARED"
        assert await _waiting(place) == (0, 1)


@on_loop
async def test_what_an_instance_leaves_behind_goes_to_the_shared_queue(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        router = await place.owner()
        await _register(place)
        request_id = await place.submit()
        await _forward(place, router, await router.claim(request_id))
        assert await Recovery(place.store).reassign([_target(place)], CHOSEN) == 1
        assert await _waiting(place) == (0, 1)
        assert await place.field(request_id, "queue") == _target(place).queue


@on_loop
async def test_a_message_in_the_queue_of_a_dead_instance_is_found(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynamo_tasks.store.ledger.recovery._ORPHAN_AGE_MS", -1000)
    async with Place(redis_server.url) as place:
        router, recovery = await place.owner(), Recovery(place.store)
        await _register(place)
        request_id = await place.submit()
        await _forward(place, router, await router.claim(request_id))
        assert await recovery.lost_messages(place.namespace, set()) == (set(), 0)
        await place.do("SREM", place.keys.leases, f"{CHOSEN:x}")
        assert await recovery.lost_messages(place.namespace, set()) == (set(), 1)
        assert await _waiting(place) == (0, 1)


@on_loop
async def test_at_a_drain_a_forwarded_request_leaves_the_queue_of_its_instance(
    redis_server: RedisServer,
) -> None:
    async with Place(redis_server.url) as place:
        router, worker = await place.owner(), await place.owner()
        await _register(place)
        request_id = await place.submit()
        await _forward(place, router, await router.claim(request_id))
        attempt = await worker.claim(request_id, endpoint=_target(place))
        await worker.ledger.release(attempt, retries=0, front=True, counts=False)
        assert await _waiting(place) == (1, 1)  # the first one is the message that this test did not take
        assert await place.field(request_id, "queue") == _target(place).queue


@on_loop
async def test_a_forwarded_request_may_wait_for_late_binding(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        router, worker = await place.owner(), await place.owner()
        await _register(place)
        target, marks = _target(place), Marks(32, 16, [1, 2]).encode()
        late = LateQueue(place.store, place.keys, target.component)
        ids = []
        for waits, outcome in ((False, "OK"), (True, "LATE"), (False, "LATE")):
            attempt = await router.claim(await place.submit())
            message = b'{"id": "%s"}' % attempt.id.encode()
            for _ in range(2):  # the reply was lost
                got = await forward(router.store, attempt, target, CHOSEN, message, waits=waits, marks=marks)
                assert got in (outcome, "OK")
            ids.append(attempt.id)
        window = await late.look(target.late_queue)
        assert window.ids == ids[1:]
        assert await late.take(target.late_queue, ids[2], [ids[1]], {}) is not None
        log = await worker.run(ids[2], endpoint=target)
        assert log.attempt.number == 1
