"""The worker's connections are cut, and its server restarted, while streams run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from kombu.exceptions import OperationalError

from dynamo_tasks.queue import greenlets
from dynamo_tasks.queue.worker.consumer import Consumer
from tests.support.faults import black_hole, fill_memory, free_memory
from tests.support.processes import Worker, until
from tests.support.queue import Lab
from tests.support.server import RedisServer


@pytest.fixture
def lab(own_server: RedisServer) -> Iterator[Lab]:
    """A server that may be harmed."""
    made = Lab(own_server, "cut")
    yield made
    made.close()


def cut(lab: Lab, keep: set[str] = frozenset(), only: str = "") -> None:
    """``CLIENT KILL`` of connections; ``only`` those of the broker, or all."""
    mine = lab.redis.client_id()
    for found in lab.redis.client_list():
        if str(found["id"]) in keep or int(found["id"]) == mine:
            continue
        store = found["name"].startswith("dynamo-tasks:") and found["name"] != "dynamo-tasks:consumer"
        if only != "broker" or not store:
            lab.redis.client_kill_filter(_id=found["id"])


def ids(lab: Lab) -> set[str]:
    return {str(found["id"]) for found in lab.redis.client_list()}


def alive(worker: Worker) -> None:
    assert worker.alive, worker.output
    assert "Traceback" not in worker.output, worker.output
    assert "Unrecoverable" not in worker.output, worker.output


def test_all_connections_of_the_worker_are_cut_in_mid_stream(lab: Lab) -> None:
    """† Nothing unacknowledged is restored by a broken channel: what runs would run twice."""
    assert lab.redis.ping()
    before = ids(lab)
    with lab.worker() as worker:
        workers = ids(lab) - before
        results = [lab.call("count", {"n": 80, "delay": 0.02}) for _ in range(5)]
        plain = lab.plain("doze").delay(0.8)
        iterators = [iter(result) for result in results]
        heads = [[next(one) for _ in range(5)] for one in iterators]
        # Requests of endpoints have no note that could time out; the plain task's is a month old now.
        until(lambda: lab.unacked() == 1, what="the plain task runs")
        for index in lab.redis.scan_iter("dt:@unacked_index:*"):
            month_ago = time.time() - 30 * 24 * 3600
            lab.redis.zadd(index, dict.fromkeys(lab.redis.zrange(index, 0, -1), month_ago))
        cut(lab, keep=ids(lab) - workers)
        assert [head + list(one) for head, one in zip(heads, iterators, strict=True)] == [list(range(80))] * 5
        assert plain.get(timeout=30) is True
        assert lab.call("echo", 1).get(timeout=30) == 1
        assert lab.plain("plus").clone(args=(1,)).delay().get(timeout=30) == 2
        until(lambda: lab.unacked() == 0, what="all acked")
        assert worker.output.count(f"signal task_prerun {plain.id}") == 1
        alive(worker)
        assert [lab.record(result.id)["attempts"] for result in results] == ["1"] * 5


@pytest.mark.slow
def test_a_worker_never_stops_taking_requests(lab: Lab) -> None:
    """† Cut after cut, of all connections or of the broker's alone, at any moment: the next request is served."""
    assert lab.redis.ping()
    lab.call("echo", 0, ignore_result=True)
    with lab.worker() as worker:
        assert lab.call("echo", -1, ignore_result=True).get(timeout=20) == -1
        for i in range(12):
            running = lab.call("count", {"n": 20, "delay": 0.01}, ignore_result=True)
            if i % 3:
                lab.reaches(running.id, "RUNNING")
            mine = {str(found["id"]) for found in lab.redis.client_list() if not _of_worker(found, worker)}
            cut(lab, keep=mine, only="broker" if i % 2 else "")
            assert lab.call("echo", i, ignore_result=True).get(timeout=20) == i
            assert lab.plain("plus").clone(args=(i,)).delay().get(timeout=20) == i + 1
            assert running.get(timeout=20) == list(range(20))
        alive(worker)


def _of_worker(client: dict[str, str], worker: Worker) -> bool:
    """Whether a row of ``CLIENT LIST`` is a connection of the worker's process."""
    port = client["addr"].rpartition(":")[2]
    return port in _ports(worker.pid)


def _ports(pid: int) -> set[str]:
    """Local TCP ports of a process."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(os.readlink(link).removeprefix("socket:[").removesuffix("]"))
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return {str(int(row[1].rpartition(":")[2], 16)) for row in rows if row[9] in inodes}


def test_streams_keep_their_pace_while_only_the_broker_is_away(lab: Lab) -> None:
    with lab.worker() as worker:
        paced = lab.call("pace", {"n": 60, "delay": 0.02})
        lab.reaches(paced.id, "RUNNING")
        stop = time.monotonic() + 1.0
        while time.monotonic() < stop:
            cut(lab, only="broker")
            time.sleep(0.05)  # the pace of the fault
        gaps = list(paced)
        assert statistics.median(gaps) < 0.1, gaps
        # Far above what a busy machine adds, far below what a connection's patience would (seconds).
        assert max(gaps) < 1.0, gaps
        assert lab.call("echo", 1).get(timeout=30) == 1
        alive(worker)


@pytest.mark.parametrize("streaming", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_server_is_killed_and_restarted_on_its_aof(
    lab: Lab, own_server: RedisServer, streaming: bool
) -> None:
    """† The result of a plain task that ends while the server is away is written once it is back."""
    with lab.worker() as worker:
        assert lab.call("echo", 1).get(timeout=30) == 1
        results = [lab.call("count", {"n": 120, "delay": 0.02}) for _ in range(3)] if streaming else []
        iterators = [iter(result) for result in results]
        heads = [[next(one) for _ in range(3)] for one in iterators]
        plain = lab.plain("doze").delay(0.5)
        until(lambda: lab.unacked() == 1, what="the plain task to run")
        own_server.kill()
        until(lambda: "reconnect_failed connection=broker" in worker.output, what="the outage to be seen")
        own_server.start()
        assert [head + list(one) for head, one in zip(heads, iterators, strict=True)] == [
            list(range(120))
        ] * len(results)
        assert lab.call("echo", 2).get(timeout=20) == 2
        assert plain.get(timeout=20) is True
        until(lambda: lab.unacked() == 0, what="all acked")
        alive(worker)


def test_no_hoarding_after_a_reconnect(lab: Lab) -> None:
    """What runs still counts: a new broker connection doesn't double the number of slots."""
    with lab.worker("--concurrency", "2") as worker:
        for found in range(5):
            lab.call("count", {"n": 200, "delay": 0.02}, task_id=f"long-{found}", ignore_result=True)
        until(lambda: lab.length() == 3, what="two that run")
        cut(lab, only="broker")
        pings = until(lambda: lab.app.control.inspect(timeout=1, limit=1).ping(), what="remote control again")
        assert len(pings) == 1
        assert lab.length() == 3
        alive(worker)


@pytest.mark.slow
def test_a_full_server_costs_neither_a_result_nor_the_worker(lab: Lab, own_server: RedisServer) -> None:
    """A plain task that waits in its queue is even run; its result is kept for the server until there is room."""
    with lab.worker("--concurrency", "1") as worker:
        first = lab.call("count", {"n": 60, "delay": 0.02})
        lab.reaches(first.id, "RUNNING")
        plain = lab.plain("doze").delay(0.1)
        fill_memory(own_server)
        with pytest.raises(OperationalError, match="maxmemory"):
            lab.call("echo", 1)
        until(lambda: "store.refused" in worker.output, what="the stream to wait")
        free_memory(own_server)
        assert first.get(timeout=20) == list(range(60))
        assert plain.get(timeout=30) is True
        lab.plain("doze").apply_async((1.0,), ignore_result=True)
        until(lambda: lab.unacked() == 1, what="a slot that is taken")
        queued = lab.plain("plus").clone(args=(1,)).delay()
        fill_memory(own_server)
        until(lambda: f"signal task_prerun {queued.id}" in worker.output, what="the plain task to run")
        until(lambda: "connection=results" in worker.output, what="its result to be refused")
        free_memory(own_server)
        assert queued.get(timeout=30) == 2
        until(lambda: lab.unacked() == 0, what="all acked")
        assert lab.call("echo", 2).get(timeout=30) == 2
        alive(worker)


def test_a_publisher_is_notified_at_once_that_the_server_is_away(lab: Lab, own_server: RedisServer) -> None:
    """Celery would first try twenty times, once a second, to subscribe to the result of the call."""
    lab.call("echo", 1)
    own_server.kill()
    asked = time.monotonic()
    for _ in range(3):  # the first one may still find an open socket
        with pytest.raises(OperationalError):
            lab.call("echo", 2)
    assert time.monotonic() - asked < 10.0
    own_server.start()
    assert lab.state(lab.call("echo", 3).id) == "QUEUED"


@pytest.mark.slow
def test_a_broker_that_swallows_packets_does_not_stop_the_loop(lab: Lab) -> None:
    """It accepts nobody, so a connect gets no answer at all."""
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(black_hole())
        connection = lab.app.connection_for_read(f"redis://127.0.0.1:{port}/0", connect_timeout=1)
        gaps = asyncio.run(_connect(connection, 1.5))
        assert len(gaps) > 20, "the loop ran"
        assert max(gaps) < 0.5, max(gaps)


async def _connect(connection: object, seconds: float) -> list[float]:
    """Connect as a worker's consumer does; the turns of the loop meanwhile, seconds."""
    loop = asyncio.get_running_loop()
    consumer = Consumer.__new__(Consumer)
    consumer.connection_errors = (OSError, redis.RedisError, OperationalError)
    connecting = asyncio.create_task(greenlets.run(lambda: consumer.ensure_connected(connection)))
    gaps, last, end = [], loop.time(), loop.time() + seconds
    while last < end:
        await asyncio.sleep(0.02)
        gaps.append(loop.time() - last)
        last = loop.time()
    assert not connecting.done()
    connecting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await connecting
    return gaps
