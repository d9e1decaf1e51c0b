"""The pool under load."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import pytest

from tests.support.processes import ROOT, Worker, environment, until
from tests.support.promises import in_time
from tests.support.queue import SERVICE, Lab, not_consuming


def test_256_streams_in_one_process(lab: Lab, worker: Worker) -> None:
    with not_consuming(lab):  # all of them are there before the first one ends
        results = [lab.call("count", {"n": 20, "delay": 0.1}, ignore_result=True) for _ in range(256)]
    until(lambda: lab.redis.scard(f"{lab.keys.base}owned:{owner(lab)}") > 200, what="most of them at once")
    assert all(list(result) == list(range(20)) for result in results)
    until(lambda: lab.unacked() == 0, what="all acked")
    # What the worker did, whatever else this process was busy with: 256 times 2 s, side by side.
    records = [lab.record(result.id) for result in results]
    assert max(int(r["finished"]) for r in records) - min(int(r["started"]) for r in records) < 15_000


def owner(lab: Lab) -> str:
    leases = list(lab.redis.scan_iter(f"{lab.keys.base}owned:*"))
    return leases[0].rpartition(":")[2] if leases else ""


@pytest.mark.slow
def test_memory_and_slots_are_flat_over_many_short_tasks(lab: Lab, worker: Worker) -> None:
    def burst(count: int) -> None:
        results = [lab.call("echo", i, ignore_result=True) for i in range(count)]
        lab.reaches(results[-1].id, "SUCCEEDED", 30)
        until(lambda: lab.length() == 0, what="an empty queue")

    def live() -> int:
        return int(lab.call("live", {}).get(timeout=30))

    burst(200)
    # what was written in the last seconds is kept on purpose, in case the server forgets it
    before = until(lambda: (count := live()) < 20_000 and count, what="the memory of the last seconds to go")
    burst(2800)
    until(lambda: live() < before + 1500, 20, "the same number of objects")
    stats = next(iter(lab.app.control.inspect(timeout=5, limit=1).stats().values()))
    assert stats["pool"]["running"] == 0


def test_a_request_leaves_no_garbage(lab: Lab, worker: Worker) -> None:
    """The collector runs seldom: what only it can free would add up."""
    lab.call("garbage", {}).get(timeout=30)
    for i in range(100):
        lab.call("echo", i).get(timeout=30)
    found = lab.call("garbage", {}).get(timeout=30)
    assert sum(found.values()) < 200, found


def test_sequential_calls_are_quick(lab: Lab, worker: Worker) -> None:
    """The pop is armed again at once: no poll interval between two tasks."""

    def one(i: int) -> float:
        began = time.perf_counter()
        assert next(iter(lab.call("echo", i, ignore_result=True))) == i
        return time.perf_counter() - began

    in_time(lambda: statistics.median(one(i) for i in range(30)), 0.02)


def test_other_pools_are_refused_in_one_line(lab: Lab) -> None:
    command = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "dynamo_tasks",
        "worker",
        "-P",
        "threads",
        "--service",
        SERVICE,
    ]
    done = subprocess.run(
        command,
        env=environment(lab.server.url),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 2
    assert "asyncio pool" in done.stderr
    assert "Traceback" not in done.stderr
