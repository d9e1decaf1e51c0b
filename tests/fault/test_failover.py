"""The master is lost, and Sentinels promote its replica, while streams run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from dynamo_tasks.runtime.inspect import snapshot
from dynamo_tasks.serve.server.resp import ping
from dynamo_tasks.store.client import close_shared
from tests.support.faults import kill_redis
from tests.support.processes import Frontend, Worker, until
from tests.support.queue import SERVICE, Lab
from tests.support.readers import MODEL, PACED, check, start
from tests.support.sentinel import SentinelGroup

pytestmark = pytest.mark.slow
ASK = {"model": MODEL, "prompt": "hi", "max_tokens": 2}


@dataclass
class Stack:
    """Two workers, a frontend and a worker of the test service, all at the URL of the Sentinels."""

    group: SentinelGroup
    workers: list[Worker]
    http: Frontend
    lab: Lab


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with ExitStack() as entered:
        group = entered.enter_context(SentinelGroup(tmp_path))
        workers = [
            entered.enter_context(Worker(group.url, settings=PACED, name=name, wait=False)) for name in "ab"
        ]
        env = {"LAB_NAMESPACE": "failover"}
        workers.append(
            entered.enter_context(Worker(group.url, service=SERVICE, name="lab", env=env, wait=False))
        )
        http = entered.enter_context(Frontend(group.url, settings=("Worker.ServiceArgs.workers=2",)))
        workers[-1].wait_ready()
        lab = Lab(group.master, "failover", url=group.url)
        yield Stack(group, workers, http, lab)
        lab.close()
        close_shared(lab.app.server_url)


def test_failover(stack: Stack) -> None:
    """† Streams go on, everybody is registered again within 2 s, nobody ends; 503 while there is no master."""
    group, lab, http = stack.group, stack.lab, stack.http
    assert ping(group.url) == "PONG"
    assert lab.call("echo", 1).get(timeout=30) == 1
    plain = lab.plain("doze").apply_async((1.0,), queue=lab.queue)
    until(lambda: lab.unacked() == 1, what="the plain task runs")
    readers = start(http, n=16, tokens=300)
    group.kill_sentinel()
    kill_redis(group.master)
    until(lambda: http.request("POST", "/v1/completions", ASK)[0] == 503, what="refused")
    until(group.promoted, 20.0, "a new master")
    at = time.monotonic()
    until(lambda: http.get("/ready")[0] == 200, 10.0, "all registered again")
    assert time.monotonic() - at < 2.0
    until(lambda: http.request("POST", "/v1/completions", ASK)[0] == 200, 5.0, "served again")
    check(readers)
    assert plain.get(timeout=20) is True
    assert lab.call("echo", 2).get(timeout=20) == 2
    assert {row["namespace"] for row in snapshot(group.url)["instances"]} == {"dynamo", "failover"}
    for process in (*stack.workers, http):
        assert process.alive, process.output
        assert "Traceback" not in process.output, process.output


def test_planned_failover(stack: Stack) -> None:
    """The old master lives on as a replica."""
    readers = start(stack.http, n=8, tokens=200)
    stack.group.failover()
    until(stack.group.promoted, 20.0, "a new master")
    check(readers)
    assert stack.lab.call("echo", 2).get(timeout=20) == 2
    for process in (*stack.workers, stack.http):
        assert process.alive, process.output
        assert "Traceback" not in process.output, process.output
