"""Warm, soft and cold shutdown of a worker."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator

import pytest

from tests.support.processes import Worker, until
from tests.support.promises import in_time
from tests.support.queue import Lab
from tests.support.server import RedisServer


@pytest.fixture
def lab(redis_server: RedisServer, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A namespace for one test, since its workers end."""
    made = Lab(redis_server, re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()))
    yield made
    made.close()


def clean(worker: Worker) -> None:
    """It left nothing behind in its log."""
    assert "Traceback" not in worker.output, worker.output


def test_warm_finishes_what_runs_and_takes_no_more(lab: Lab) -> None:
    with lab.worker() as worker:
        running = [lab.call("count", {"n": 40, "delay": 0.02}) for _ in range(3)]
        for one in running:
            lab.reaches(one.id, "RUNNING")
        worker.signal(signal.SIGTERM)
        until(lambda: "Warm shutdown" in worker.output, what="the signal")
        until(lambda: "instance.deregistered" in worker.output, what="out of the registry")
        late = lab.call("echo", 1)
        assert [list(one) for one in running] == [list(range(40))] * 3
        assert worker.popen.wait(20) == 0
        assert (lab.state(late.id), lab.length()) == ("QUEUED", 1)
        assert lab.unacked() == 0
        clean(worker)


def test_warm_requeues_what_was_not_started(lab: Lab) -> None:
    """Rate-limited plain tasks wait in the worker; they return to the front, in their order, at once."""
    with lab.worker() as worker:
        running = lab.call("count", {"n": 80, "delay": 0.02})
        lab.reaches(running.id, "RUNNING")
        queue = f"{lab.namespace}-plain"
        lab.app.control.add_consumer(queue, reply=True, timeout=5, limit=1)
        limited = [lab.plain("slow_rate").clone(args=(i,)).set(queue=queue).apply_async() for i in range(4)]
        assert limited[0].get(timeout=30) == 0
        until(lambda: lab.unacked() == 3, what="three that wait in the worker")
        worker.signal(signal.SIGTERM)
        until(lambda: lab.redis.llen(queue) == 3, what="requeued")
        assert lab.state(running.id) == "RUNNING", "requeued at once, not at the end of what runs"
        order = [message.partition('"id": "')[2][:36] for message in lab.redis.lrange(queue, 0, -1)]
        assert order[::-1] == [one.id for one in limited[1:]]
        assert list(running) == list(range(80))
        assert worker.popen.wait(20) == 0


@pytest.mark.parametrize(
    "signals",
    [
        ("SIGTERM", "SIGTERM"),
        *(
            pytest.param(signals, marks=pytest.mark.slow)
            for signals in [("SIGQUIT",), ("SIGTERM", "SIGQUIT"), ("SIGINT", "SIGINT")]
        ),
    ],
)
def test_cold_hands_over_and_another_worker_continues(lab: Lab, signals: tuple[str, ...]) -> None:
    with lab.worker(name="one") as one:
        result = lab.call("count", {"n": 200, "delay": 0.02})
        seen = iter(result)
        first = [next(seen) for _ in range(10)]
        waiting = lab.call("count", {"n": 1})
        assert list(waiting) == [0]
        one.signal(getattr(signal, signals[0]))
        until(lambda: " shutdown" in one.output, what=signals[0])
        # Of signals within a second the first counts.
        until(lambda: "Cold shutdown" in one.output or one.signal(getattr(signal, signals[-1])), what="cold")
        one.popen.wait(20)
        clean(one)
        record = lab.record(result.id)
        assert (record["state"], record["attempts"], lab.length(), lab.unacked()) == ("QUEUED", "0", 1, 0)
        with lab.worker(name="two"):
            assert first + list(seen) == list(range(200))
        assert lab.record(result.id)["attempts"] == "1"


def test_soft_shutdown_waits_and_then_hands_over(lab: Lab) -> None:
    with lab.worker(env={"LAB_SOFT": "0.8"}) as worker:
        short, long = (
            lab.call("count", {"n": 20, "delay": 0.02}),
            lab.call("count", {"n": 500, "delay": 0.02}),
        )
        pace = lab.call("pace", {"n": 20, "delay": 0.02})
        for one in (short, long, pace):
            lab.reaches(one.id, "RUNNING")
        worker.signal(signal.SIGQUIT)
        assert list(short) == list(range(20))
        assert max(pace) < 0.2
        assert lab.state(long.id) == "RUNNING"
        worker.popen.wait(20)
        assert lab.state(long.id) == "QUEUED"
        clean(worker)
        long.cancel()


def test_cold_does_not_wait_for_a_blocked_thread(lab: Lab) -> None:
    with lab.worker() as worker:
        queue = f"{lab.namespace}-plain"
        lab.app.control.add_consumer(queue, reply=True, timeout=5, limit=1)
        lab.plain("doze").clone(args=(30,)).set(queue=queue).apply_async()
        until(lambda: lab.unacked() == 1, what="the task to start")
        worker.signal(signal.SIGQUIT)
        worker.popen.wait(20)
        assert (lab.redis.llen(queue), lab.unacked()) == (1, 0)


def test_remapped_sigterm_is_cold(lab: Lab) -> None:
    with lab.worker(env={"REMAP_SIGTERM": "SIGQUIT"}) as worker:
        result = lab.call("count", {"n": 500, "delay": 0.02})
        lab.reaches(result.id, "RUNNING")
        worker.signal(signal.SIGTERM)
        worker.popen.wait(20)
        assert lab.state(result.id) == "QUEUED"
        result.cancel()


def test_an_idle_worker_ends_at_once(lab: Lab) -> None:
    """There is nothing to wait for."""

    def seconds() -> float:
        with lab.worker() as worker:
            began = time.monotonic()
            worker.signal(signal.SIGTERM)
            assert worker.popen.wait(20) == 0
            took = time.monotonic() - began
            clean(worker)
            return took

    in_time(seconds, 5.0)


def test_remote_shutdown_is_warm(lab: Lab) -> None:
    with lab.worker() as worker:
        result = lab.call("count", {"n": 20, "delay": 0.02})
        lab.reaches(result.id, "RUNNING")
        lab.app.control.shutdown(destination=[next(iter(lab.app.control.inspect(timeout=5, limit=1).ping()))])
        assert list(result) == list(range(20))
        assert worker.popen.wait(20) == 0
        clean(worker)
