"""The claim: who may run a message, and what a redelivered one is answered."""

from __future__ import annotations

import asyncio
import time

import pytest

from dynamo_tasks.errors import RequestCancelledError
from dynamo_tasks.protocol.events import Claim, End, ErrorInfo, EventId, Kind
from dynamo_tasks.protocol.states import State
from dynamo_tasks.store.ledger.claim_refused import ClaimRefused
from dynamo_tasks.store.ledger.fields import Field
from dynamo_tasks.store.ledger.forwarding import preempt
from dynamo_tasks.store.ledger.recovery import Recovery
from tests.support.server import RedisServer
from tests.support.streams import DONE, Place, eventually, on_loop, values


async def refusal(owner, request_id: str, **options) -> ClaimRefused:
    with pytest.raises(ClaimRefused) as caught:
        await owner.claim(request_id, **options)
    return caught.value


@on_loop
async def test_a_claim_asked_again_is_the_same_claim(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        owner, request_id = await place.owner(), await place.submit()
        first = await owner.claim(request_id, nonce="n1")
        again = await owner.claim(request_id, nonce="n1")
        assert (again.epoch, again.number, again.previous) == (first.epoch, 1, EventId(0, 0))
        assert [event.kind for event in await place.log(request_id)] == [Kind.CLAIM]
        assert (await refusal(owner, request_id, nonce="n2")).reason == "DUPLICATE"


@on_loop
async def test_a_message_of_a_request_that_a_live_instance_runs_is_a_duplicate(
    redis_server: RedisServer,
) -> None:
    async with Place(redis_server.url) as place:
        one, two, request_id = await place.owner(), await place.owner(), await place.submit()
        await one.claim(request_id)
        assert (await refusal(two, request_id)).reason == "DUPLICATE"
        await one.die()
        attempt = await two.claim(request_id)
        assert attempt.number == 2
        assert await place.do("SMEMBERS", place.keys.owned(one.lease)) == []


@on_loop
async def test_the_next_attempt_names_its_predecessor_and_its_epoch_grows(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        one, two, request_id = await place.owner(), await place.owner(), await place.submit()
        log = await one.run(request_id)
        await one.write(log, "a", "b")
        await one.die()
        attempt = await two.claim(request_id)
        top = EventId(log.attempt.epoch, 2)
        assert attempt.previous == top
        assert attempt.epoch > log.attempt.epoch
        last = (await place.log(request_id))[-1]
        assert (last.id, Claim.decode(last.data).previous) == (EventId(attempt.epoch, 0), top)


@on_loop
async def test_an_epoch_grows_even_if_the_clock_is_behind(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        owner, request_id = await place.owner(), await place.submit()
        ahead = 9_999_999_999_999
        await place.do("HSET", place.keys.record(request_id), Field.EPOCH, ahead)
        await place.do("XADD", place.keys.stream(request_id), f"{ahead + 5}-0", "k", "0-0|1|1")
        assert (await owner.claim(request_id)).epoch == ahead + 6


@on_loop
async def test_a_finished_request_whose_completion_did_not_run_gives_its_outcome_again(
    redis_server: RedisServer,
) -> None:
    async with Place(redis_server.url) as place:
        one, two, request_id = (
            await place.owner(),
            await place.owner(),
            await place.submit(ignore_result=False),
        )
        log = await one.run(request_id)
        assert await log.finish(DONE, b'["r"]', settled=False) == "OK"
        assert (
            await refusal(two, request_id)
        ).reason == "DUPLICATE"  # its owner lives: it runs the completion
        await one.die()
        outcome = await refusal(two, request_id)
        assert (outcome.reason, outcome.state, outcome.result) == ("UNSETTLED", State.SUCCEEDED, b'["r"]')
        await two.ledger.settle(place.namespace, request_id)
        assert (await refusal(two, request_id)).reason == "DUPLICATE"


@on_loop
async def test_a_cancelled_request_tells_its_outcome_to_who_receives_its_message(
    redis_server: RedisServer,
) -> None:
    async with Place(redis_server.url) as place:
        owner, request_id = await place.owner(), await place.submit(ignore_result=False)
        assert await place.ledger.cancel(place.namespace, request_id) == "OK"
        outcome = await refusal(owner, request_id)
        assert (outcome.reason, outcome.state) == ("UNSETTLED", State.CANCELLED)
        assert outcome.error is not None
        assert outcome.error.code == RequestCancelledError.code


@on_loop
async def test_our_message_without_a_record_is_dropped_a_foreign_one_gets_a_record(
    redis_server: RedisServer,
) -> None:
    async with Place(redis_server.url) as place:
        owner, request_id = await place.owner(), await place.submit()
        await place.do("DEL", place.keys.record(request_id))
        assert (await refusal(owner, request_id)).reason == "GONE"
        assert await place.state(request_id) is None
        assert await place.log(request_id) == []
        attempt = await owner.claim("from-send-task", tracked=False)
        assert attempt.number == 1
        assert (await place.ledger.get("from-send-task", place.namespace)).state is State.RUNNING


@on_loop
async def test_retry_messages_are_distinguished_by_their_number(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        one, two, request_id = await place.owner(), await place.owner(), await place.submit()
        attempt = await one.claim(request_id)
        early = await refusal(two, request_id, retries=1)  # it overtook the release of the first attempt
        assert (early.reason, early.wait_ms > 0) == ("WAIT", True)
        assert await two.ledger.defer(place.namespace, request_id, 1, b"retry message")
        await one.ledger.release(attempt, retries=1, message=b"retry message")
        assert (await refusal(two, request_id, retries=0)).reason == "DUPLICATE"  # superseded
        assert (await two.claim(request_id, retries=1)).number == 2


@on_loop
async def test_a_refused_claim_takes_nothing_from_a_dead_owner(redis_server: RedisServer) -> None:
    """Else nobody would own the request, and its recovery would not find it."""
    async with Place(redis_server.url) as place:
        one, two, request_id = await place.owner(), await place.owner(), await place.submit()
        attempt = await one.claim(request_id)
        await one.ledger.release(attempt, retries=1, message=b"retry message")
        await two.claim(request_id, retries=1)
        await two.die()
        assert (await refusal(one, request_id, retries=0)).reason == "DUPLICATE"
        assert request_id in await Recovery(place.store).owned(place.namespace, two.lease)
        assert await Recovery(place.store).requeue(place.namespace, request_id, two.lease) == "OK"
        assert await place.state(request_id) == "QUEUED"
        assert request_id not in await Recovery(place.store).owned(place.namespace, two.lease)


@on_loop
async def test_a_message_before_its_time_waits_and_one_past_its_deadline_expires(
    redis_server: RedisServer,
) -> None:
    async with Place(redis_server.url) as place:
        owner = await place.owner()
        early = await place.submit(not_before=4e9)
        assert (await refusal(owner, early)).reason == "WAIT"
        late = await place.submit(deadline=1.0)
        assert (await refusal(owner, late)).reason == "EXPIRED"
        assert await place.ledger.expire(place.namespace, late, "too late") == "OK"
        assert await place.ledger.expire(place.namespace, late, "too late") == "ENDED"


@pytest.mark.parametrize("by", ["preempt", "release"])
@on_loop
async def test_what_was_started_in_time_does_not_expire_when_its_worker_lets_go_of_it(
    redis_server: RedisServer, by: str
) -> None:
    async with Place(redis_server.url) as place:
        owner = await place.owner()
        request_id = await place.submit(expires=time.time() + 0.3)
        attempt = await owner.claim(request_id)
        if by == "preempt":
            assert await preempt(place.store, attempt) == "OK"
        else:  # as a worker does that ends
            await place.ledger.release(attempt, retries=0, front=True, counts=False)
        await asyncio.sleep(0.4)  # that is what passes
        assert (await owner.claim(request_id)).number == 1


@on_loop
async def test_a_claim_keeps_the_log_and_only_the_winner_of_finish_ends_it(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        one, two, request_id = await place.owner(), await place.owner(), await place.submit()
        old = await one.run(request_id)
        await one.write(old, 1, 2)
        await place.do("PEXPIRE", place.keys.stream(request_id), 60_000)
        await one.die()
        new = await two.run(request_id)
        assert await place.do("PTTL", place.keys.stream(request_id)) == -1
        assert (
            await one.ledger.finish(old.attempt, top=old.top, end=DONE, result=b"", settled=True) == "FENCED"
        )
        assert await place.state(request_id) == "RUNNING"
        await two.write(new, 3)
        assert await two.finish(new) == "OK"
        events = await place.log(request_id)
        assert values(events) == [1, 2, 3]
        assert [event.kind for event in events].count(Kind.END) == 1
        assert await two.ledger.finish(new.attempt, top=new.top, end=DONE, result=b"", settled=True) == "OK"
        assert len(await place.log(request_id)) == len(events)


@on_loop
async def test_an_end_needs_the_expected_event_on_top(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        owner, request_id = await place.owner(), await place.submit()
        log = await owner.run(request_id)
        await owner.write(log, 1)
        above = EventId(log.attempt.epoch, 2)
        reply = await owner.ledger.finish(log.attempt, top=above, end=DONE, result=b"", settled=True)
        assert reply == "BEHIND"
        assert await place.state(request_id) == "RUNNING"


@on_loop
async def test_a_release_asked_again_is_one_release(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        owner, request_id = await place.owner(), await place.submit()
        await place.do("DEL", place.queue)
        attempt = await owner.claim(request_id)
        for _ in range(2):
            await owner.ledger.release(attempt, retries=0, front=True, counts=False)
        assert await place.do("LRANGE", place.queue, 0, -1) == [b"message"]
        assert (await owner.claim(request_id)).number == 1  # a requeue counts as no attempt


@on_loop
async def test_a_requeue_keeps_the_retry_number_of_the_message_that_is_kept(
    redis_server: RedisServer,
) -> None:
    """Else that message would be taken for superseded, however often it is sent again."""
    async with Place(redis_server.url) as place:
        owner, request_id = await place.owner(), await place.submit()
        attempt = await owner.claim(request_id, retries=1)  # a retry's message that was ahead of the ledger
        for _ in range(2):
            await owner.ledger.release(attempt, retries=1, front=True, counts=False)
        assert (await owner.claim(request_id, retries=0)).number == 1


@on_loop
async def test_somebody_elses_end_fences_with_exactly_the_next_epoch(redis_server: RedisServer) -> None:
    async with Place(redis_server.url) as place:
        owner, request_id = await place.owner(), await place.submit()
        log = await owner.run(request_id)
        await owner.write(log, 1, 2)
        await eventually(lambda: _clock_is_above(place, log.attempt.epoch + 1))
        end = End(State.CANCELLED, "cancelled", error=ErrorInfo("cancelled", "stop"))
        assert await place.ledger.cancel(place.namespace, request_id, end=end) == "OK"
        last = (await place.log(request_id))[-1]
        assert last.id == EventId(log.attempt.epoch + 1, 0)
        assert End.decode(last.data).previous == str(log.top)
        assert End.decode(last.data).error == end.error
        assert await place.ledger.cancel(place.namespace, request_id, end=end) == "ENDED"


async def _clock_is_above(place: Place, epoch: int) -> bool:
    seconds, micros = await place.do("TIME")
    return int(seconds) * 1000 + int(micros) // 1000 > epoch
