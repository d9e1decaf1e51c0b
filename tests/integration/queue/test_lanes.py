"""Celery's callers and a worker of two lanes: one set of slots, results on the first lane, ids found anywhere."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator

import pytest
import redis

from dynamo_tasks.errors import ConfigError, IdempotencyConflictError
from dynamo_tasks.queue.client.result import StreamResult
from dynamo_tasks.store.lanes.directory import rank
from tests.support.processes import Worker, until
from tests.support.queue import SERVICE, Lab, not_consuming
from tests.support.server import RedisServer


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    with RedisServer(tmp_path_factory.mktemp("a")) as a, RedisServer(tmp_path_factory.mktemp("b")) as b:
        yield [a, b]


@pytest.fixture(scope="module")
def lab(servers: list[RedisServer]) -> Iterator[Lab]:
    made = Lab(servers[0], "lanes", " ".join(server.url for server in servers))
    yield made
    made.close()


@pytest.fixture(scope="module")
def worker(lab: Lab, servers: list[RedisServer]) -> Iterator[Worker]:
    with lab.worker("--concurrency=1") as process:
        until(lambda: all(_known(lab, server) for server in servers), what="the worker on both lanes")
        yield process
        assert "Traceback" not in process.output, process.output


def _known(lab: Lab, server: RedisServer) -> bool:
    with redis.Redis(port=server.port) as asked:
        return asked.scard(lab.keys.instances) > 0


def _lane_of(lab: Lab, servers: list[RedisServer], request_id: str) -> list[int]:
    found = []
    for number, server in enumerate(servers, 1):
        with redis.Redis(port=server.port) as asked:
            if asked.exists(lab.keys.record(request_id)):
                found.append(number)
    return found


def _id_for(lane: int) -> str:
    return next(one for one in iter(lambda: str(uuid.uuid4()), "") if rank(one, 2)[0] == lane)


def test_results_come_from_both_lanes(lab: Lab, servers: list[RedisServer], worker: Worker) -> None:
    results = [lab.call("echo", {"n": n}) for n in range(24)]
    assert [result.get(timeout=30) for result in results] == [{"n": n} for n in range(24)]
    assert {tuple(_lane_of(lab, servers, result.id)) for result in results} == {(1,), (2,)}
    assert [list(result) for result in results] == [[{"n": n}] for n in range(24)]


def test_one_slot_is_one_slot(lab: Lab, servers: list[RedisServer], worker: Worker) -> None:
    """With work on both lanes no more runs at a time than there are slots, and neither lane starves."""
    results = [lab.call("overlap", 0.05, task_id=_id_for(1 + n // 8)) for n in range(16)]
    rows = [result.get(timeout=60) for result in results]
    assert [most for most, _ in rows] == [1] * 16
    by_time = sorted(range(16), key=lambda n: rows[n][1])
    assert {n // 8 for n in by_time[4:8]} == {0, 1}, "one lane was served after the other"


@pytest.mark.parametrize("lane", [1, 2])
def test_an_id_stands_for_one_request(
    lab: Lab, servers: list[RedisServer], worker: Worker, lane: int
) -> None:
    task_id = _id_for(lane)
    assert lab.call("echo", 1, task_id=task_id).get(timeout=30) == 1
    assert lab.call("echo", 1, task_id=task_id).get(timeout=30) == 1
    with pytest.raises(IdempotencyConflictError):
        lab.call("echo", 2, task_id=task_id)
    assert _lane_of(lab, servers, task_id) == [lane]


@pytest.mark.parametrize("lane", [1, 2])
def test_a_retry_stays_on_its_lane(lab: Lab, servers: list[RedisServer], worker: Worker, lane: int) -> None:
    result = lab.call("flaky", {"until": 2}, task_id=_id_for(lane))
    assert result.get(timeout=30) == 2
    assert _lane_of(lab, servers, result.id) == [lane]


@pytest.mark.parametrize("lane", [1, 2])
def test_a_request_is_cancelled_where_it_lives(
    lab: Lab, servers: list[RedisServer], worker: Worker, lane: int
) -> None:
    result = lab.call("count", {"n": 1000, "delay": 0.05}, task_id=_id_for(lane))
    next(iter(result))
    assert result.cancel()
    until(lambda: result.record().state.lower() == "cancelled", what="its end")


def test_an_id_is_found_when_a_lane_was_added(lab: Lab, servers: list[RedisServer], worker: Worker) -> None:
    """Who knows one lane alone has made them; who knows both finds them, and does not make them again."""
    alone = Lab(servers[0], "lanes")
    try:
        ids = [_id_for(2) for _ in range(4)]
        made = [alone.call("echo", n, task_id=one) for n, one in enumerate(ids)]
        assert [one.get(timeout=30) for one in made] == [*range(4)]
    finally:
        alone.close()
    for n, one in enumerate(ids):
        assert StreamResult(one, app=lab.app).get(timeout=30) == n
        assert lab.call("echo", n, task_id=one).get(timeout=30) == n
        assert _lane_of(lab, servers, one) == [1]


@pytest.mark.parametrize("lane", [1, 2])
def test_spare_capacity_is_left_to_requests_of_any_lane(servers: list[RedisServer], lane: int) -> None:
    spare = Lab(servers[0], f"lanespare{lane}", " ".join(server.url for server in servers))
    try:
        with spare.worker("--concurrency=1", service="tests.support.spare:Spare"):
            until(lambda: all(_known(spare, server) for server in servers), what="the worker on both lanes")
            slow = spare.call("go", {"n": 200, "delay": 0.02}, preemptible=True, task_id=_id_for(lane))
            values = iter(slow)
            assert [next(values) for _ in range(5)] == [*range(5)]
            for other in (3 - lane, lane):
                began = time.monotonic()
                spare.call("quick", task_id=_id_for(other)).get(timeout=30)
                assert time.monotonic() - began < 3.0
            assert list(values) == [*range(5, 200)]
    finally:
        spare.close()


def test_a_queue_that_is_not_consumed_is_left_alone_on_all_lanes(
    lab: Lab, servers: list[RedisServer], worker: Worker
) -> None:
    with not_consuming(lab):
        waits = lab.call("echo", 1, task_id=_id_for(2))
        with pytest.raises(AssertionError):
            until(lambda: waits.record().state != "QUEUED", 1.0)
    assert waits.get(timeout=30) == 1


def test_a_lane_that_is_drained_gets_what_it_knows(
    lab: Lab, servers: list[RedisServer], worker: Worker
) -> None:
    known = _id_for(2)
    assert lab.call("echo", 1, task_id=known).get(timeout=30) == 1
    drains = Lab(servers[0], "lanes", f"{lab.url}#drain")
    try:
        assert drains.call("echo", 1, task_id=known).get(timeout=30) == 1
        made = [drains.call("echo", n) for n in range(12)] + [drains.call("echo", 12, task_id=_id_for(2))]
        assert [one.get(timeout=30) for one in made] == [*range(13)]
        assert {tuple(_lane_of(lab, servers, one.id)) for one in made} == {(1,)}
    finally:
        drains.close()
    assert _lane_of(lab, servers, known) == [2]


def test_lanes_that_cannot_be(servers: list[RedisServer]) -> None:
    first, second = servers[0].url, servers[1].url
    for text, message in (
        (f"{first} {first}", "lanes 1 and 2 are the same"),
        (f"{first},{second.removesuffix('0')}3", "lane 2 has the database 3"),
        (f"{first} redis://host:99999/0", "lane 2: "),
    ):
        lab = Lab(servers[0], "wrong", text)
        try:
            with pytest.raises(ConfigError, match=message):
                lab.call("echo", 1)
        finally:
            lab.close()


def test_a_limit_that_lanes_cannot_share(lab: Lab) -> None:
    with lab.worker(
        settings=("Lab.ServiceArgs.traffic.concurrency=1",), wait=False, service=SERVICE
    ) as process:
        assert process.popen.wait(60) == 2
        assert "concurrency: 1 cannot be shared by 2 lanes" in process.output
