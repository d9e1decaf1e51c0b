"""What observers do with the requests and messages of instances that are no more."""

from __future__ import annotations

import uuid

import msgspec
import pytest

from dynamo_tasks.errors import RequestNotFoundError
from dynamo_tasks.protocol.events import End, Kind
from dynamo_tasks.protocol.states import State
from dynamo_tasks.store.ledger.claim_refused import ClaimRefused
from dynamo_tasks.store.ledger.dead import DeadList
from dynamo_tasks.store.ledger.recovery import Recovery
from tests.support.server import RedisServer
from tests.support.streams import Owner, Place, on_loop, values


async def _refusal(owner: Owner, request_id: str) -> str:
    with pytest.raises(ClaimRefused) as refused:
        await owner.claim(request_id)
    return refused.value.reason


async def _lose(place: Place, owner: Owner, request_id: str) -> str:
    await owner.die()
    return await Recovery(place.store).requeue(place.namespace, request_id, owner.lease)


@on_loop
async def test_a_completion_whose_second_worker_dies_too_is_run_once_more(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        request_id = await place.submit(ignore_result=False)
        first, second, third = [await place.owner() for _ in range(3)]
        log = await first.run(request_id)
        await log.finish(End(State.SUCCEEDED, "stop"), b'"result"', settled=False)
        assert await _lose(place, first, request_id) == "SETTLE"
        assert await _refusal(second, request_id) == "UNSETTLED"
        assert await _refusal(third, request_id) == "DUPLICATE", "the second one is at it"
        assert await _lose(place, second, request_id) == "SETTLE"
        assert await _refusal(third, request_id) == "UNSETTLED"
        await third.ledger.settle(place.namespace, request_id)
        assert await Recovery(place.store).owned(place.namespace, third.lease) == set()
        assert await _refusal(first, request_id) == "DUPLICATE"


async def _poisoned(place: Place) -> str:
    request_id = await place.submit()
    outcomes = []
    for _ in range(3):
        owner = await place.owner()
        await owner.run(request_id)
        outcomes.append(await _lose(place, owner, request_id))
    assert outcomes == ["OK", "OK", "DEAD"]
    return request_id


@on_loop
async def test_three_attempts_without_a_token_and_a_retry(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        dead = DeadList(place.store)
        request_id = await _poisoned(place)
        (row,) = await dead.all(place.namespace)
        assert (row.record.id, row.record.attempts, row.message) == (request_id, 3, b"message")
        former = (await place.log(request_id))[-1]
        await dead.retry(request_id)
        assert await dead.all(place.namespace) == []
        with pytest.raises(RequestNotFoundError, match="dead list"):
            await dead.retry(request_id)
        owner = await place.owner()
        log = await owner.run(request_id)
        await owner.write(log, 1)
        await owner.finish(log)
        events = await place.log(request_id)
        assert [event.kind for event in events] == [Kind.CLAIM, Kind.VALUES, Kind.END]
        assert events[0].id > former.id, "no former owner can write"


@on_loop
async def test_an_attempt_with_a_token_is_not_idle(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        request_id = await place.submit()
        outcomes = []
        for n in range(10):
            owner = await place.owner()
            await owner.write(await owner.run(request_id), n)
            outcomes.append(await _lose(place, owner, request_id))
        assert outcomes == ["OK"] * 9 + ["DEAD"]
        assert "lost its worker 10 times" in (await place.field(request_id, "error") or "")


@on_loop
async def test_lost_messages_are_found_behind_many_that_wait(redis_server: RedisServer) -> None:
    """Requests that nobody serves must not hide one that is lost."""
    async with Place(redis_server.url) as place:
        recovery = Recovery(place.store)
        waiting = [await place.submit() for _ in range(5)]
        lost = msgspec.structs.replace(place.new(), queue=f"{place.namespace}|Other")
        await place.ledger.submit(lost)
        await place.do("DEL", lost.queue)
        long_ago = 1000
        for n, request_id in enumerate([*waiting, lost.id]):
            await place.do("ZADD", place.keys.queued, long_ago + n, request_id)
        suspects: set[str] = set()
        sent = 0
        for _ in range(5):
            suspects, now = await recovery.lost_messages(place.namespace, suspects, limit=2)
            sent += now
        assert sent == 1
        assert await place.do("LLEN", lost.queue) == 1
        assert await place.do("LLEN", place.queue) == 5


async def _with_message(place: Place) -> str:
    request_id = uuid.uuid4().hex
    await place.ledger.submit(
        place.new(request_id, message=f'{{"headers": {{"id": "{request_id}"}}}}'.encode())
    )
    return request_id


@on_loop
async def test_a_request_that_was_given_back_does_not_make_younger_ones_look_lost(
    redis_server: RedisServer,
) -> None:
    async with Place(redis_server.url) as place:
        recovery = Recovery(place.store)
        first = await _with_message(place)
        owner = await place.owner()
        await owner.run(first)
        await place.do("DEL", place.queue)
        second = await _with_message(place)
        assert await _lose(place, owner, first) == "OK"
        for request_id in (first, second):
            score = float(await place.do("ZSCORE", place.keys.queued, request_id))
            await place.do("ZADD", place.keys.queued, score - 3000, request_id)
        assert await recovery.lost_messages(place.namespace, set()) == (set(), 0)


@on_loop
async def test_who_claims_is_watched_even_if_it_was_taken_for_dead(redis_server: RedisServer) -> None:
    """By mistake; it claims before it renews its lease, and then it really dies."""
    async with Place(redis_server.url) as place:
        owner = await place.owner()
        recovery = Recovery(place.store)
        await recovery.take_over(place.namespace, owner.lease, "observer")
        request_id = await place.submit()
        await owner.run(request_id)
        assert owner.lease in await recovery.owners(place.namespace)
        assert await recovery.take_over(place.namespace, owner.lease, "observer") == {
            "requeued": 1, "dead": 0, "settle": 0, "restored": 0,
        }  # fmt: skip


async def _found_again(place: Place, request_id: str) -> bytes:
    """The message that the search for lost ones sends again."""
    await place.do("DEL", place.queue)
    recovery = Recovery(place.store)
    assert (await recovery.lost_messages(place.namespace, {request_id}))[1] == 1
    return bytes(await place.do("RPOP", place.queue))


@pytest.mark.parametrize("how", ["finished", "cancelled", "cancelled in the queue"])
@on_loop
async def test_a_completion_whose_message_is_lost_is_run_nevertheless(
    redis_server: RedisServer, how: str
) -> None:
    """The worker died after the end; whoever took the message that was sent for Celery's completion died as well."""
    async with Place(redis_server.url) as place:
        request_id = await place.submit(ignore_result=False)
        first, second = await place.owner(), await place.owner()
        if how != "cancelled in the queue":
            log = await first.run(request_id)
            if how == "finished":
                await log.finish(End(State.SUCCEEDED, "stop"), b"1", settled=False)
            else:
                await place.ledger.cancel(place.namespace, request_id)
            assert await _lose(place, first, request_id) == "SETTLE"
        else:
            await place.ledger.cancel(place.namespace, request_id)
        assert await _found_again(place, request_id) == b"message"
        assert await _refusal(second, request_id) == "UNSETTLED"
        await second.ledger.settle(place.namespace, request_id)
        assert await Recovery(place.store).lost_messages(place.namespace, {request_id}) == (set(), 0)


@on_loop
async def test_a_request_is_tried_again_while_the_completion_of_its_failure_runs(
    redis_server: RedisServer,
) -> None:
    async with Place(redis_server.url) as place:
        request_id = await place.submit(ignore_result=False)
        for _ in range(3):
            owner = await place.owner()
            await owner.run(request_id)
            await _lose(place, owner, request_id)
        second = await place.owner()
        assert await _refusal(second, request_id) == "UNSETTLED"
        await DeadList(place.store).retry(request_id)
        assert await Recovery(place.store).owned(place.namespace, second.lease) == set()
        await second.ledger.settle(place.namespace, request_id)
        assert await place.state(request_id) == "QUEUED"
        assert await place.field(request_id, "message") == "message"
        assert await place.field(request_id, "settled") == "0"


@on_loop
async def test_a_message_above_the_retry_number_does_not_make_the_records_own_one_stale(
    redis_server: RedisServer,
) -> None:
    async with Place(redis_server.url) as place:
        request_id = await place.submit()
        owner, other = await place.owner(), await place.owner()
        await owner.claim(request_id, retries=1)
        assert await _lose(place, owner, request_id) == "OK"
        assert (await other.claim(request_id, retries=0)).number == 2


@on_loop
async def test_a_claim_that_is_restored_leaves_nothing_with_the_owner_before(
    redis_server: RedisServer,
) -> None:
    """A failover has forgotten that the owner before died, and the claim that followed."""
    async with Place(redis_server.url) as place:
        one, two, request_id = await place.owner(), await place.owner(), await place.submit()
        await one.claim(request_id)
        keys = [place.keys.record(request_id), place.keys.stream(request_id), place.keys.owned(one.lease)]
        forgotten = {key: await place.do("DUMP", key) for key in keys}
        recovery = Recovery(place.store)
        assert await recovery.requeue(place.namespace, request_id, one.lease) == "OK"
        log = await two.run(request_id)
        for key, value in forgotten.items():
            await place.do("RESTORE", key, 0, value, "REPLACE")
        log.suspect = True
        await two.write(log, 1)
        assert values(await place.log(request_id)) == [1]
        assert await recovery.owned(place.namespace, one.lease) == set()
        assert await recovery.owned(place.namespace, two.lease) == {request_id}
