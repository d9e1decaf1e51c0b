"""One of two lanes is killed and comes back, and a worker dies, while streams run on both (docs/lanes.md)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import redis

from tests.support.faults import by_load, freeze_redis, kill_redis, kill_worker
from tests.support.processes import Frontend, Worker, until
from tests.support.readers import MODEL, PACED, Reader, check, start
from tests.support.server import RedisServer

pytestmark = pytest.mark.slow

AWAY = 3.5
"""Seconds: longer than a lease."""
ASK = {"model": MODEL, "prompt": "hi", "max_tokens": 2}


@dataclass
class Stack:
    """Two lanes, two workers, a frontend."""

    servers: list[RedisServer]
    workers: list[Worker]
    http: Frontend

    def of(self, lane: int, readers: list[Reader]) -> list[Reader]:
        """Those whose requests live on a lane."""
        with redis.Redis(port=self.servers[lane].port) as asked:
            return [one for one in readers if asked.exists(f"dt:dynamo:req:{one.request_id}")]


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with ExitStack() as entered:
        servers = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            servers.append(entered.enter_context(RedisServer(tmp_path / name, "--appendfsync", "always")))
        url = " ".join(server.url for server in servers)
        workers = [entered.enter_context(Worker(url, settings=PACED, name=name, wait=False)) for name in "ab"]
        http = entered.enter_context(Frontend(url, settings=("Worker.ServiceArgs.workers=2",)))
        made = Stack(servers, workers, http)
        until(lambda: all(_workers(server) == 2 for server in servers), what="both workers on both lanes")
        yield made
        for process in (*workers, http):
            assert "Traceback" not in process.output, process.output


def _workers(server: RedisServer) -> int:
    with redis.Redis(port=server.port) as asked:
        return sum(1 for _ in asked.scan_iter("dt:dynamo:queues:*"))


def _leases(server: RedisServer) -> int:
    with redis.Redis(port=server.port) as asked:
        return sum(1 for _ in asked.scan_iter("dt:dynamo:lease:*"))


@pytest.mark.parametrize("lane", [0, 1])
def test_a_lane_is_killed_and_comes_back(stack: Stack, lane: int) -> None:
    """Its requests wait and go on; those of the other lane, and new ones, notice nothing."""
    readers = start(stack.http, n=16, tokens=250)
    mine, others = stack.of(lane, readers), stack.of(1 - lane, readers)
    assert mine
    assert others
    assert len(mine) + len(others) == len(readers)
    at = kill_redis(stack.servers[lane])
    while time.monotonic() < at + AWAY:
        status, _, body = stack.http.request("POST", "/v1/completions", ASK)
        assert status == 200, body
    stack.servers[lane].start()
    check(readers, timeout=60)
    assert min(reader.gap(at) for reader in mine) > AWAY - 1.0, "nobody was hit"
    assert max(reader.gap(at) for reader in others) < 1.0


def test_a_lane_keeps_silent(stack: Stack) -> None:
    """Its connections stay open: who waits in vain says so, and the next ones go elsewhere."""
    readers = start(stack.http, n=16, tokens=300)
    others = stack.of(0, readers)
    at = freeze_redis(stack.servers[1])
    answers = []
    while time.monotonic() < at + 8.0:
        answers.append(stack.http.request("POST", "/v1/completions", ASK)[0])
    stack.servers[1].thaw()
    assert set(answers) <= {200, 503}
    assert (503, 503) not in pairwise(answers), answers
    assert answers.count(503) <= 4, answers
    check(readers, timeout=60)
    assert max(reader.gap(at) for reader in others) < 1.0


@pytest.mark.parametrize("lane", [0, 1])
def test_a_worker_dies_while_a_lane_is_away(stack: Stack, lane: int) -> None:
    """The other lane's are taken over at once, its own as soon as it is back."""
    readers = start(stack.http, n=16, tokens=250)
    others = stack.of(1 - lane, readers)
    kill_redis(stack.servers[lane])
    at = kill_worker(by_load(stack.servers[1 - lane].url, stack.workers, 16)[0])
    for reader in others:
        reader.join(30)
        assert reader.done, reader.error
    assert 0.2 < max(reader.gap(at) for reader in others) < 4.5
    stack.servers[lane].start()
    check(readers, timeout=60)


def test_a_worker_that_starts_while_a_lane_is_away(stack: Stack) -> None:
    """It serves the lanes that are there, and the other one once that is back."""
    kill_redis(stack.servers[1])
    url = " ".join(server.url for server in stack.servers)
    with Worker(url, settings=PACED, name="late"):
        for worker in stack.workers:
            assert worker.terminate() == 0
        status, _, body = stack.http.request("POST", "/v1/completions", ASK)
        assert status == 200, body
        stack.servers[1].start()
        until(lambda: _leases(stack.servers[1]) == 1, what="it is there")
        check(start(stack.http, n=12, tokens=20))
