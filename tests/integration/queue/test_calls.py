"""Calls as Celery users make them: delay, get, chain, group, chord, links, retries."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from celery import chain, chord, group
from celery.exceptions import TaskRevokedError
from celery.exceptions import TimeoutError as CeleryTimeoutError

from dynamo_tasks.errors import IdempotencyConflictError
from tests.support.processes import Worker, until
from tests.support.promises import in_time
from tests.support.queue import Lab

pytestmark = pytest.mark.usefixtures("worker")


def test_every_kind_of_endpoint_streams_and_returns(lab: Lab) -> None:
    assert list(lab.call("count", {"n": 4})) == [0, 1, 2, 3]
    assert lab.call("count", {"n": 4}).get(timeout=30) == [0, 1, 2, 3]
    assert lab.call("echo", {"a": 1}).get(timeout=30) == {"a": 1}
    assert list(lab.call("echo", [1, None])) == [[1, None]]
    assert lab.call("plain", {}).get(timeout=30) == {"thread": True}
    assert list(lab.call("steps", {"n": 3})) == [0, 1, 2]


def test_an_endpoint_may_return_bytes(lab: Lab) -> None:
    result = lab.call("bytes", {})
    assert list(result) == [b"ab"]
    assert lab.state(result.id) == "SUCCEEDED"
    assert result.get(timeout=30) == b"ab"


def test_results_of_ignored_calls_come_from_the_stream(lab: Lab) -> None:
    assert lab.call("count", {"n": 3}, ignore_result=True).get(timeout=30) == [0, 1, 2]
    assert lab.call("echo", {"a": 1}, ignore_result=True).get(timeout=30) == {"a": 1}


def test_a_result_is_awaitable_and_async_iterable(lab: Lab) -> None:
    async def main() -> tuple[Any, list[Any]]:
        value = await lab.call("echo", {"a": 2})
        return value, [item async for item in lab.call("count", {"n": 3})]

    assert asyncio.run(main()) == ({"a": 2}, [0, 1, 2])


def test_chain_of_endpoints_and_plain_tasks(lab: Lab) -> None:
    work = chain(lab.task("add").s({"x": 1}), lab.plain("plus").clone(), lab.task("add").s({"by": 10}))
    assert work.apply_async().get(timeout=30) == {"x": 13}


def test_group_gives_stream_results(lab: Lab) -> None:
    result = group(lab.task("count").s({"n": n}) for n in (1, 2, 3)).apply_async()
    assert result.get(timeout=30) == [[0], [0, 1], [0, 1, 2]]
    assert list(result.results[2]) == [0, 1, 2]


def test_chords_with_endpoints_as_header_and_body(lab: Lab) -> None:
    header = [
        lab.task("add").s({"x": 1}),
        lab.task("add").s({"x": 2}),
        lab.plain("plus").clone(args=({"x": 3},)),
    ]
    assert chord(header, lab.task("total").s()).apply_async().get(timeout=30) == 9


def test_a_failed_chord_header_fails_its_body(lab: Lab) -> None:
    from celery.exceptions import ChordError

    header = [lab.task("add").s({"x": 1}), lab.task("fail").s({})]
    with pytest.raises((ChordError, ValueError), match="boom"):
        chord(header, lab.task("total").s()).apply_async().get(timeout=30)


def test_links_and_errbacks(lab: Lab, worker: Worker) -> None:
    good = lab.call("add", {"x": 41}, link=lab.plain("note").clone(args=("linked",)))
    bad = lab.call("fail", {}, link_error=lab.plain("errback"))
    with pytest.raises(ValueError, match="boom"):
        bad.get(timeout=30)
    assert good.get(timeout=30) == {"x": 42}
    until(lambda: "LAB note {'x': 42} linked" in worker.output, what="the link")
    until(lambda: f"LAB errback {bad.id} ValueError" in worker.output, what="the errback")


def test_retry_from_the_endpoint(lab: Lab) -> None:
    result = lab.call("flaky", {"until": 2})
    assert result.get(timeout=30) == 2
    record = result.record()
    assert (record.state, record.retries, record.attempts) == ("SUCCEEDED", 2, 1)


def test_a_retry_waits_in_the_ledger(lab: Lab) -> None:
    result = lab.call("flaky", {"until": 1, "countdown": 0.6})
    until(lambda: result.state == "RETRY", what="RETRY")
    assert lab.redis.zscore(lab.keys.timers, f"m:{result.id}") is not None
    assert lab.length() == 0
    assert result.get(timeout=30) == 1


def test_retries_that_are_used_up_fail_with_the_cause(lab: Lab, worker: Worker) -> None:
    result = lab.call("flaky", {"until": 9, "max": 1}, link_error=lab.plain("errback"))
    with pytest.raises(ValueError, match="not yet"):
        result.get(timeout=30)
    assert result.record().state == "FAILED"
    until(lambda: f"LAB errback {result.id} ValueError" in worker.output, what="the errback")


def test_autoretry_with_backoff(lab: Lab) -> None:
    result = lab.call("auto", {"until": 1})
    until(lambda: result.state == "RETRY", what="RETRY")
    wait = lab.redis.zscore(lab.keys.timers, f"m:{result.id}")
    assert wait is not None
    assert result.get(timeout=30) == 1


def test_countdown_waits_in_the_ledger(lab: Lab) -> None:
    result = lab.call("echo", 1, countdown=0.5)
    assert result.state == "PENDING"
    assert lab.length() == 0
    assert lab.redis.zscore(lab.keys.timers, f"m:{result.id}") is not None
    assert result.get(timeout=30) == 1


def test_time_limit_ends_the_request(lab: Lab) -> None:
    from celery.exceptions import TimeLimitExceeded

    result = lab.call("limited", {})
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=30)
    assert result.record().state == "FAILED"
    assert result.state == "FAILURE"


def test_soft_time_limit_can_be_caught(lab: Lab) -> None:
    values = list(lab.call("soft", {}, soft_time_limit=0.3))
    assert values[0] == "on"
    assert values[-1] == "off"
    assert lab.call("soft_wait", {}, soft_time_limit=0.2).get(timeout=30) == "caught"


def test_send_task_gets_its_record_at_claim(lab: Lab) -> None:
    result = lab.app.send_task(f"{lab.namespace}.Lab.count", args=({"n": 3},), queue=lab.queue)
    assert result.get(timeout=30) == [0, 1, 2]
    assert lab.state(result.id) == "SUCCEEDED"


def test_plain_tasks_run_in_threads(lab: Lab) -> None:
    assert lab.plain("doze").delay(0.01).get(timeout=30) is True


def test_a_blocking_endpoint_does_not_hold_up_the_loop(lab: Lab) -> None:
    def measure() -> float:
        blocked = [
            lab.call("plain", {"sleep": 0.8}),
            lab.call("steps", {"n": 2, "sleep": 0.4}),
            lab.plain("doze").delay(0.8),
        ]
        gaps = list(lab.call("pace", {"n": 20, "delay": 0.02}))
        for one in blocked:
            one.get(timeout=30)
        return max(gaps)

    in_time(measure, 0.3)


def test_bodies_run_beside_each_other_in_contexts_of_their_own(lab: Lab) -> None:
    """† ``current_task`` is empty in the body; the context is the request's own."""
    results = [lab.call("who", {}) for _ in range(20)]
    for result in results:
        seen = result.get(timeout=30)
        assert seen == {"id": result.id, "again": result.id, "task": False, "retries": 0}


def test_retries_of_concurrent_requests_do_not_mix(lab: Lab) -> None:
    """The tracer's request is passed explicitly: each retry is of the request that asked for it."""
    results = [lab.call("flaky", {"until": 1}) for _ in range(20)]
    assert [result.get(timeout=30) for result in results] == [1] * 20


def test_ignore_and_reject_end_their_requests(lab: Lab) -> None:
    ignored = lab.call("refuse", {"ignore": True})
    lab.reaches(ignored.id, "SUCCEEDED")
    rejected = lab.call("refuse", {})
    lab.reaches(rejected.id, "FAILED")
    again = lab.call("refuse", {"requeue": True})
    lab.reaches(again.id, "SUCCEEDED")
    until(lambda: lab.unacked() == 0, what="all acked")


def test_get_never_hangs(lab: Lab) -> None:
    for result in (lab.call("echo", 1, countdown=60), lab.call("count", {"n": 1000, "delay": 0.05})):
        with pytest.raises(CeleryTimeoutError):
            result.get(timeout=0.3)
        assert result.cancel()
        with pytest.raises(TaskRevokedError):
            result.get(timeout=30)
        assert result.state == "REVOKED"


def test_readers_join_from_anywhere(lab: Lab) -> None:
    from dynamo_tasks.queue.client.result import StreamResult

    result = lab.call("count", {"n": 40, "delay": 0.01})
    other = StreamResult(result.id, app=lab.app)
    assert list(other) == list(result) == list(range(40))
    before_the_end = lab.events(result.id)[-2][0].decode()
    assert list(other.stream(after=before_the_end)) == []


def test_an_idempotency_key_joins_the_first_call(lab: Lab, worker: Worker) -> None:
    """While it runs and after its end; for another payload or another endpoint it stands for nothing."""
    ask = {"n": 20, "delay": 0.01}
    first = lab.call("count", ask, idempotency_key="join")
    second = lab.call("count", ask, idempotency_key="join")
    assert second.id == first.id
    assert list(second) == list(first) == list(range(20))
    assert first.get(timeout=30) == second.get(timeout=30) == list(range(20))
    third = lab.call("count", ask, idempotency_key="join")
    assert (third.id, list(third)) == (first.id, list(range(20)))
    assert lab.record(first.id)["attempts"] == "1"
    for endpoint, payload in (("count", ask | {"n": 21}), ("echo", ask)):
        with pytest.raises(IdempotencyConflictError):
            lab.call(endpoint, payload, idempotency_key="join")
    assert lab.call("echo", 1, idempotency_key="join", tenant="t").get(timeout=30) == 1
