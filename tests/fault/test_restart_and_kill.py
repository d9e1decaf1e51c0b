"""A worker dies with the server, or just behind the server's restart, when everybody looks absent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from dynamo_tasks.store.registry import LEASE_TTL
from tests.support.faults import by_load, kill_worker, restart_redis
from tests.support.processes import Frontend, Worker, until
from tests.support.readers import PACED, Reader, check, start
from tests.support.server import RedisServer

pytestmark = pytest.mark.slow


@dataclass
class Stack:
    """Three workers and a frontend."""

    server: RedisServer
    workers: list[Worker]
    http: Frontend


@pytest.fixture
def stack(own_server: RedisServer, tmp_path: Path) -> Iterator[Stack]:
    with ExitStack() as entered:
        url = own_server.url
        workers = [
            entered.enter_context(Worker(url, settings=PACED, name=name, wait=False)) for name in "abc"
        ]
        http = entered.enter_context(Frontend(url, settings=("Worker.ServiceArgs.workers=3",)))
        yield Stack(own_server, workers, http)


def _died(stack: Stack, by: str) -> bool:
    return any(
        "instance.died" in process.output and f"by={by}" in process.output
        for process in (*stack.workers, stack.http)
    )


def _more(readers: list[Reader], n: int) -> None:
    seen = [len(reader.times) for reader in readers]
    until(
        lambda: all(len(r.times) >= k + n or r.done for r, k in zip(readers, seen, strict=True)),
        what="tokens",
    )


def test_a_worker_that_dies_with_the_server(stack: Stack) -> None:
    """Only the lease tells; it is counted from the moment in which the server is back."""
    readers = start(stack.http, n=12, tokens=150)
    victim = by_load(stack.server.url, stack.workers, 12)[0]
    kill_worker(victim)
    restart_redis(stack.server)
    back = stack.server.started_at
    check(readers)
    waited = [min(at for at in reader.times if at > back) - back for reader in readers]
    assert max(waited) <= LEASE_TTL + 1.0, waited
    assert max(waited) > LEASE_TTL - 1.0, "nobody was hit"
    assert not _died(stack, "presence")


def test_a_worker_that_dies_just_behind_a_restart(stack: Stack) -> None:
    """It was seen on the new server: its absence is believed at once."""
    readers = start(stack.http, n=12, tokens=250)
    victim = by_load(stack.server.url, stack.workers, 12)[0]
    restart_redis(stack.server)
    until(lambda: stack.http.get("/ready")[0] == 200, 5.0, "all registered again")
    _more(readers, 25)
    at = kill_worker(victim)
    check(readers)
    gaps = [reader.gap(at) for reader in readers]
    assert 0.2 < max(gaps) < 2.0, gaps
    assert _died(stack, "presence")
