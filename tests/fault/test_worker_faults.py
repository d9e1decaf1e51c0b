"""Workers and frontends die or hang in mid-stream: each text goes on; nothing lost, repeated or reordered."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from tests.support.faults import (
    Line,
    by_load,
    cut_redis,
    freeze_worker,
    kill_frontend,
    kill_worker,
    restart_redis,
    thaw_worker,
)
from tests.support.processes import Frontend, Worker, until
from tests.support.readers import PACED, check, start
from tests.support.server import RedisServer


@dataclass
class Stack:
    """Two workers; two frontends, of which each test may kill the first."""

    server: RedisServer
    entered: ExitStack
    line: Line
    workers: list[Worker] = field(default_factory=list)
    one: Frontend = field(init=False)
    two: Frontend = field(init=False)

    def add(self, name: str, url: str = "") -> None:
        """One more worker; does not wait for it."""
        worker = Worker(url or self.server.url, settings=PACED, name=name, wait=False)
        self.workers.append(self.entered.enter_context(worker))

    def by_load(self, n: int) -> list[Worker]:
        """The workers once they run ``n`` requests, the busiest one first."""
        return by_load(self.server.url, self.workers, n)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with RedisServer(tmp_path_factory.mktemp("workers")) as server, ExitStack() as entered:
        made = Stack(server, entered, entered.enter_context(Line(server.url)))
        made.add("a")
        made.add("b")
        settings = ("Worker.ServiceArgs.workers=2",)
        made.two = entered.enter_context(Frontend(server.url, settings=settings, ready=""))
        made.one = entered.enter_context(Frontend(server.url, settings=settings))
        until(lambda: made.two.get("/ready")[0] == 200, what="the second frontend")
        yield made


def test_kill_worker(stack: Stack) -> None:
    readers = start(stack.one, n=8)
    at = kill_worker(stack.by_load(8)[0])
    stack.add("c", stack.line.url)
    check(readers)
    gaps = sorted(reader.gap(at) for reader in readers)
    assert statistics.median(gaps) <= 1.0, gaps
    assert gaps[-1] > 0.2, "nobody was hit"
    stack.workers[-1].wait_ready()


def test_cut_worker(stack: Stack) -> None:
    """Only this worker cannot reach the server: its streams go on elsewhere; when it is back, it is fenced."""
    until(lambda: stack.two.get("/ready")[0] == 200, what="both workers")
    cut_off = stack.workers[-1]
    readers = start(stack.one, n=16)
    at = cut_redis(stack.line)
    check(readers)
    assert max(reader.gap(at) for reader in readers) > 0.2, "nobody was hit"
    stack.line.refuse(False)
    until(lambda: stack.two.get("/ready")[0] == 200, 5.0, "registered again, and seen by a frontend")
    assert cut_off.alive, cut_off.output


@pytest.mark.slow
def test_several_faults_in_one_stream(stack: Stack) -> None:
    """One worker hangs and the other takes over; the zombie wakes and the other dies; so do frontend and server."""
    readers = start(stack.one, stack.two, n=8, tokens=480)
    zombie, other = stack.by_load(8)
    at = freeze_worker(zombie)
    until(lambda: "by=lease" in other.output + stack.one.output + stack.two.output, what="seen as dead")
    seen = [len(reader.times) for reader in readers]
    until(lambda: all(len(r.times) > n + 5 for r, n in zip(readers, seen, strict=True)), what="all go on")
    assert max(reader.gap(at) for reader in readers) <= 4.0
    thaw_worker(zombie)
    until(lambda: stack.two.get("/ready")[0] == 200, what="the zombie has come back as a worker")
    kill_worker(other)
    kill_frontend(stack.one)
    restart_redis(stack.server)
    check(readers)
    assert all(reader.resumed for reader in readers)
    assert zombie.alive, zombie.output
    assert "Traceback" not in zombie.output, zombie.output
