"""The Redis server is killed, frozen, cut off, or loses its leases, while streams run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from dynamo_tasks.runtime.inspect import snapshot
from tests.support.faults import (
    Line,
    cut_redis,
    delete_leases,
    fill_memory,
    free_memory,
    freeze_redis,
    restart_redis,
)
from tests.support.processes import Frontend, Worker, until
from tests.support.promises import in_time
from tests.support.readers import MODEL, PACED, check, start
from tests.support.server import RedisServer

pytestmark = pytest.mark.slow

SHORT, LONG = 1.5, 3.5
"""Seconds; the second is longer than a lease."""
ASK = {"model": MODEL, "prompt": "hi", "max_tokens": 2}


@dataclass
class Stack:
    """Two workers and a frontend, all of them behind one line."""

    server: RedisServer
    line: Line
    workers: list[Worker]
    http: Frontend

    def calm(self) -> None:
        """All is well: nobody ended, nobody was taken for dead, no flood in the logs."""
        for process in (*self.workers, self.http):
            assert process.alive, process.output
            assert "Traceback" not in process.output, process.output
            assert "instance.died" not in process.output, process.output


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with RedisServer(tmp_path_factory.mktemp("outage")) as server, ExitStack() as entered:
        line = entered.enter_context(Line(server.url))
        workers = [
            entered.enter_context(Worker(line.url, settings=PACED, name=name, wait=False)) for name in "ab"
        ]
        http = entered.enter_context(Frontend(line.url, settings=("Worker.ServiceArgs.workers=2",)))
        yield Stack(server, line, workers, http)


def _is_refused(http: Frontend, code: str = "server_unavailable") -> None:
    def seconds() -> float:
        asked = time.monotonic()
        status, headers, body = http.request("POST", "/v1/completions", ASK)
        assert (status, body["error"]["code"]) == (503, code)
        assert int(headers["retry-after"]) >= 1
        return time.monotonic() - asked

    in_time(seconds, 3.3)


def _is_back(stack: Stack, since: float) -> None:
    # The frontend may not have looked yet: what the server says counts.
    until(lambda: len(snapshot(stack.server.url)["instances"]) == 2, 2.0, "all registered again")
    until(lambda: stack.http.get("/ready")[0] == 200, 2.0, "all seen again")
    until(lambda: stack.http.request("POST", "/v1/completions", ASK)[0] == 200, 2.0, "served again")
    assert time.monotonic() - since < 3.0


def test_restart_redis(stack: Stack) -> None:
    readers = start(stack.http, n=16)
    restart_redis(stack.server)
    _is_back(stack, time.monotonic())
    check(readers)
    stack.calm()


def test_delete_leases(stack: Stack) -> None:
    readers = start(stack.http, n=16, tokens=60)
    at = delete_leases(stack.server, "dynamo")
    _is_back(stack, at)
    check(readers)
    assert max(reader.gap(at) for reader in readers) < 0.5
    stack.calm()


def test_fill_memory(stack: Stack) -> None:
    """Streams wait, and go on; leases are kept, so that nobody is taken for dead; a request can be cancelled."""
    readers = start(stack.http, n=16)
    (waste,) = start(stack.http, n=1, tokens=100_000)
    at = fill_memory(stack.server)
    _is_refused(stack.http, "server_full")
    assert stack.http.request("DELETE", f"/v1/requests/{waste.request_id}")[0] == 200
    time.sleep(max(0.0, at + LONG - time.monotonic()))  # the length of the fault
    assert stack.http.get("/ready")[0] == 200
    _is_refused(stack.http, "server_full")
    _is_back(stack, free_memory(stack.server))
    check(readers)
    assert min(reader.gap(at) for reader in readers) > LONG - 1.0, "nobody was hit"
    stack.calm()


def test_freeze_redis(stack: Stack) -> None:
    """Connections stay open and nothing is answered; nobody is taken for dead when it goes on."""
    readers = start(stack.http, n=16)
    at = freeze_redis(stack.server)
    _is_refused(stack.http)
    time.sleep(max(0.0, at + LONG - time.monotonic()))  # the length of the fault
    stack.server.thaw()
    _is_back(stack, time.monotonic())
    check(readers)
    stack.calm()


def test_cut_redis(stack: Stack) -> None:
    readers = start(stack.http, n=16)
    lines = stack.workers[0].output.count("reconnect_failed connection=dynamo-tasks:writer")
    at = cut_redis(stack.line)
    until(lambda: stack.http.get("/health")[0] == 503, what="noticed")
    _is_refused(stack.http)
    time.sleep(max(0.0, at + SHORT - time.monotonic()))  # the length of the fault
    stack.line.refuse(False)
    _is_back(stack, time.monotonic())
    check(readers)
    stack.calm()
    told = stack.workers[0].output.count("reconnect_failed connection=dynamo-tasks:writer") - lines
    assert told == 1, "one line per 5 s and connection"
