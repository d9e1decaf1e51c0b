"""Requests that use spare capacity leave their slots to others, and go on later: real workers with two slots."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.queue.client.result import StreamResult
from dynamo_tasks.queue.client.task import make_task
from tests.support.processes import Worker, until
from tests.support.queue import Lab, not_consuming
from tests.support.server import RedisServer

N = 40
SLOW = {"n": N, "delay": 0.02}
LONG = {"n": 200, "delay": 0.02}


@pytest.fixture(scope="module")
def lab(redis_server: RedisServer) -> Iterator[Lab]:
    made = Lab(redis_server, "spare")
    yield made
    made.close()


@pytest.fixture(scope="module")
def worker(lab: Lab) -> Iterator[Worker]:
    with lab.worker("--concurrency=2", service="tests.support.spare:Spare", loglevel="debug") as process:
        yield process
        for bad in ("Unrecoverable", "never retrieved", "was never awaited", "Traceback"):
            assert bad not in process.output, process.output


pytestmark = pytest.mark.usefixtures("worker")


def runs(lab: Lab, *ids: str) -> None:
    """Wait until they run, and put something out."""
    before = {id: lab.redis.xlen(lab.keys.stream(id)) for id in ids}
    for id, length in before.items():
        until(
            lambda id=id, most=length + 1: (
                lab.state(id) == "RUNNING" and lab.redis.xlen(lab.keys.stream(id)) > most
            )
        )


def preemptions(lab: Lab, *results: StreamResult) -> list[int]:
    return [int(lab.record(result.id).get("preemptions", 0)) for result in results]


@contextmanager
def full(lab: Lab, endpoint: str = "go", payload: Any = SLOW, **options: Any) -> Iterator[list[StreamResult]]:
    """Both slots are taken by requests of spare capacity."""
    options = {"preemptible": True} | options
    results = [lab.call(endpoint, payload, **options) for _ in range(2)]
    runs(lab, *(result.id for result in results))
    yield results
    for result in results:
        result.cancel()
    until(lambda: lab.redis.scard(f"{lab.keys.base}running:Lab") == 0, what="all slots are free")


def running(lab: Lab, *results: StreamResult) -> list[bool]:
    return [lab.state(result.id) == "RUNNING" for result in results]


def test_one_that_comes_gets_the_slot_of_the_youngest_which_goes_on_later(lab: Lab) -> None:
    with full(lab, payload=LONG) as (older, younger):
        for _ in range(3):
            lab.call("quick").get(timeout=30)
            assert running(lab, older) == [True]
            runs(lab, younger.id)
        assert list(older) == list(younger) == list(range(LONG["n"]))
        assert preemptions(lab, older, younger) == [0, 3]
        assert [lab.record(result.id)["attempts"] for result in (older, younger)] == ["1", "1"]
        assert younger.get(timeout=30) == list(range(LONG["n"]))


def test_as_many_leave_as_come_and_no_more(lab: Lab) -> None:
    lab.call("peak").get(timeout=30)
    with full(lab) as spare:
        came = [lab.call("replay", {"n": 5, "delay": 0.05}) for _ in range(5)]
        waiting = lab.call("go", {"n": 5}, preemptible=True)
        assert [list(result) for result in came] == [list(range(5))] * 5
        assert [list(result) for result in spare] == [list(range(N))] * 2
        assert list(waiting) == list(range(5))
        assert preemptions(lab, *spare, waiting) == [1, 1, 0]
    # One that is released may end its last step beside the one that came.
    assert lab.call("peak").get(timeout=30) <= 4


def test_what_waits_with_the_last_priority_waits(lab: Lab) -> None:
    with full(lab) as spare:
        last = [lab.call("quick", priority=9), lab.call("go", {"n": 3}, preemptible=True)]
        first = lab.call("quick", priority=8)
        first.get(timeout=30)
        assert [lab.state(result.id) for result in last] == ["QUEUED", "QUEUED"]
        assert [list(result) for result in spare] == [list(range(N))] * 2
        last[0].get(timeout=30)
        assert list(last[1]) == [0, 1, 2]
        assert sum(preemptions(lab, *spare)) == 1


def test_a_priority_that_was_named_holds(lab: Lab) -> None:
    """One of spare capacity with a higher priority comes before the others, and is not released for its own."""
    with full(lab) as spare:
        better = [lab.call("go", {"n": 20}, preemptible=True, priority=4) for _ in range(3)]
        assert [list(result) for result in better] == [list(range(20))] * 3
        assert preemptions(lab, *better) == [0, 0, 0]
        assert [list(result) for result in spare] == [list(range(N))] * 2
        assert preemptions(lab, *spare) == [1, 1]


def test_a_plain_task_is_served_as_others_are(lab: Lab) -> None:
    with full(lab) as spare:
        lab.plain("plain").apply_async().get(timeout=30)
        assert [list(result) for result in spare] == [list(range(N))] * 2
        assert sum(preemptions(lab, *spare)) == 1


@pytest.mark.parametrize(
    ("endpoint", "payload"),
    [("replay", SLOW), ("threaded", SLOW), ("choosy", SLOW), ("parent", SLOW)],
)
def test_what_cannot_go_on_after_any_value_keeps_its_slot(
    lab: Lab, endpoint: str, payload: dict[str, Any]
) -> None:
    count = 1 if endpoint == "parent" else 2  # its call takes the other one
    kept = [lab.call(endpoint, payload, preemptible=True) for _ in range(count)]
    runs(lab, *(result.id for result in kept))
    until(lambda: lab.redis.scard(f"{lab.keys.base}running:Lab") == 2, what="both slots are taken")
    others = lab.call("quick")
    assert [list(result)[-N:] for result in kept] == [list(range(N))] * count
    others.get(timeout=30)
    assert preemptions(lab, *kept) == [0] * count


def test_a_request_may_say_that_it_can_be_left(lab: Lab) -> None:
    with full(lab, "choosy", SLOW | {"may": True}) as spare:
        lab.call("quick").get(timeout=30)
        assert sum(preemptions(lab, *spare)) == 1
        assert [list(result) for result in spare] == [list(range(N))] * 2


def test_a_call_uses_spare_capacity_as_the_request_that_makes_it(lab: Lab) -> None:
    parent = lab.call("parent", LONG, preemptible=True)
    until(lambda: lab.redis.scard(f"{lab.keys.base}running:Lab") == 2, what="its call runs")
    ids = set(lab.redis.smembers(f"{lab.keys.base}running:Lab"))
    (child,) = ids - {parent.id}
    runs(lab, child)
    assert lab.record(child)["preemptible"] == "1"
    lab.call("quick").get(timeout=30)
    assert lab.record(child)["preemptions"] == "1"
    runs(lab, parent.id)
    parent.cancel()


def test_a_request_that_was_sent_to_an_instance_goes_on_there(lab: Lab) -> None:
    (lease,) = lab.redis.smembers(lab.keys.leases)
    own = EndpointId(lab.namespace, "Lab", "go").instance_queue(int(lease, 16))
    with full(lab, queue=own) as spare, not_consuming(lab):
        urgent = lab.call(
            "quick", queue=EndpointId(lab.namespace, "Lab", "quick").instance_queue(int(lease, 16))
        )
        urgent.get(timeout=30)
        until(lambda: sum(preemptions(lab, *spare)) == 1, what="one was released")
        assert [list(result) for result in spare] == [list(range(N))] * 2


def test_an_endpoint_may_say_that_its_calls_use_spare_capacity(lab: Lab) -> None:
    task = make_task(lab.app, EndpointId(lab.namespace, "Lab", "always"), preemptible=True)
    with not_consuming(lab):
        made = [task.apply_async(({"n": 1},), **o) for o in ({}, {"preemptible": False}, {"priority": 3})]
        records = [lab.record(result.id) for result in made]
    assert [(r.get("preemptible"), r.get("suffix", "")[-1:]) for r in records] == [
        ("1", "9"),
        (None, ""),
        ("1", "3"),
    ]
    for result in made:
        result.get(timeout=30)
