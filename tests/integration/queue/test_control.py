"""Inspect, remote control, events, signals: what Celery's users and Flower see of a worker."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.processes import Worker, until
from tests.support.queue import Lab


@pytest.fixture(scope="module")
def worker(lab: Lab) -> Iterator[Worker]:
    with lab.worker("-E", "--concurrency", "4") as process:
        yield process


@pytest.fixture(scope="module")
def events(lab: Lab, worker: Worker) -> Iterator[list[dict[str, Any]]]:
    """A real ``EventReceiver``."""
    seen: list[dict[str, Any]] = []
    ready = threading.Event()
    with lab.app.connection_for_read() as connection:
        receiver = lab.app.events.Receiver(connection, handlers={"*": seen.append})

        def capture() -> None:
            def run() -> None:
                for _ in receiver.consume(limit=None, timeout=None, wakeup=True):
                    ready.set()
                    if receiver.should_stop:
                        return

            run()

        thread = threading.Thread(target=capture, daemon=True)
        thread.start()
        until(lambda: any(event["type"] == "worker-heartbeat" for event in seen), what="a heartbeat")
        yield seen
        receiver.should_stop = True
        thread.join(5)


def node(answer: Any) -> Any:
    """The one worker's part of an answer."""
    assert answer, "no answer"
    return next(iter(answer.values()))


def test_inspect_tells_what_runs_and_what_there_is(lab: Lab, worker: Worker) -> None:
    inspect = lab.app.control.inspect(timeout=5, limit=1)
    result = lab.call("count", {"n": 500, "delay": 0.02})
    lab.reaches(result.id, "RUNNING")
    active = node(inspect.active())
    assert [(one["id"], one["name"]) for one in active] == [(result.id, f"{lab.namespace}.Lab.count")]
    state, told = node(inspect.query_task(result.id, "unknown"))[result.id]
    assert (state, told["name"]) == ("active", f"{lab.namespace}.Lab.count")
    stats = node(inspect.stats())
    assert stats["pool"]["max-concurrency"] == 4
    assert stats["pool"]["implementation"] == "dynamo_tasks.queue.worker.pool:TaskPool"
    assert stats["prefetch_count"] == 4
    assert f"{lab.namespace}.Lab.count" in node(inspect.registered())
    assert node(inspect.reserved()) == []
    assert node(inspect.scheduled()) == []
    names = {queue["name"] for queue in node(inspect.active_queues())}
    assert {lab.queue, "dynamo-tasks"} < names
    assert any(name.startswith(f"{lab.queue}.count-") for name in names)
    assert result.cancel()


def test_slots_grow_and_shrink(lab: Lab, worker: Worker) -> None:
    control = lab.app.control
    results = [lab.call("count", {"n": 1000, "delay": 0.02}) for _ in range(6)]
    until(lambda: lab.length() == 2, what="four that run")
    control.pool_grow(2, reply=True, timeout=5, limit=1)
    until(lambda: lab.length() == 0, what="six that run")
    control.pool_shrink(2, reply=True, timeout=5, limit=1)
    more = lab.call("echo", 1)
    for result in results[:2]:
        result.cancel()
    until(lambda: len(node(control.inspect(timeout=5, limit=1).active())) == 4, what="four that run")
    assert lab.state(more.id) == "QUEUED"
    results[2].cancel()
    assert more.get(timeout=30) == 1
    for result in results[3:]:
        result.cancel()


def test_limits_are_set_remotely(lab: Lab, worker: Worker) -> None:
    name = f"{lab.namespace}.Lab.soft_wait"
    assert "ok" in node(lab.app.control.time_limit(name, soft=0.2, hard=5, reply=True, timeout=5, limit=1)[0])
    assert lab.call("soft_wait", {}).get(timeout=30) == "caught"
    assert "ok" in node(lab.app.control.rate_limit(name, "100/s", reply=True, timeout=5, limit=1)[0])
    assert lab.call("soft_wait", {}).get(timeout=30) == "caught"


def test_events_of_every_outcome(lab: Lab, worker: Worker, events: list[dict[str, Any]]) -> None:
    def kinds(request_id: str) -> list[str]:
        return [event["type"] for event in list(events) if event.get("uuid") == request_id]

    good, bad = lab.call("echo", 1), lab.call("fail", {})
    again, gone = lab.call("flaky", {"until": 1}), lab.call("count", {"n": 1000, "delay": 0.02})
    lab.reaches(gone.id, "RUNNING")
    gone.cancel()
    for request_id, outcome in ((good.id, "succeeded"), (bad.id, "failed"), (gone.id, "revoked")):
        expected = ["task-received", "task-started", f"task-{outcome}"]
        until(
            lambda r=request_id, e=expected: len(kinds(r)) >= len(e),
            what=lambda r=request_id: f"{kinds(r)}; {worker.output[-2000:]}",
        )
        assert kinds(request_id) == expected
    until(
        lambda: "task-retried" in kinds(again.id) and kinds(again.id)[-1] == "task-succeeded",
        what="the retry",
    )
    received = next(event for event in events if event.get("uuid") == good.id)
    assert received["name"] == f"{lab.namespace}.Lab.echo"


def test_signals_come_once(lab: Lab, worker: Worker) -> None:
    good, bad, again = lab.call("echo", 1), lab.call("fail", {}), lab.call("flaky", {"until": 1})
    good.get(timeout=30)
    again.get(timeout=30)
    lab.reaches(bad.id, "FAILED")

    def heard() -> Counter[str]:
        lines = [line.split()[2:] for line in worker.output.splitlines() if line.startswith("LAB signal")]
        return Counter(f"{line[0]} {line[1]}" for line in lines)

    until(lambda: heard()[f"task_postrun {bad.id}"] == 1, what="postrun")
    seen = heard()
    assert seen["worker_process_init -"] == 1
    assert (seen[f"task_prerun {good.id}"], seen[f"task_postrun {good.id}"]) == (1, 1)
    assert (seen[f"task_failure {bad.id}"], seen[f"task_retry {again.id}"]) == (1, 1)
    assert seen[f"task_prerun {again.id}"] == 2


def test_priorities_order_what_waits(lab: Lab, worker: Worker) -> None:
    blockers = [lab.call("count", {"n": 1000, "delay": 0.02}) for _ in range(4)]
    for one in blockers:
        lab.reaches(one.id, "RUNNING")
    waiting = [(priority, lab.call("echo", 1, priority=priority)) for priority in (9, 3, 6, 0)]
    assert [lab.length(step) for step in (0, 3, 6, 9)] == [1, 1, 1, 1]
    blockers[0].cancel()
    for _, one in waiting:
        one.get(timeout=30)
    started = sorted(waiting, key=lambda pair: int(lab.record(pair[1].id)["epoch"]))
    assert [priority for priority, _ in started] == [0, 3, 6, 9]
    for one in blockers[1:]:
        one.cancel()


def test_an_idle_worker_gets_the_rest(lab: Lab, worker: Worker) -> None:
    results = [lab.call("count", {"n": 1000, "delay": 0.02}) for _ in range(6)]
    until(lambda: lab.length() == 2, what="the first worker is full")
    with lab.worker("--concurrency", "4", name="second"):
        until(lambda: lab.length() == 0, what="the second one takes the rest")
        for result in results:
            lab.reaches(result.id, "RUNNING")
        owners = Counter(lab.record(result.id)["owner"] for result in results)
        assert sorted(owners.values()) == [2, 4]
        for result in results:
            result.cancel()
        for result in results:
            lab.reaches(result.id, "CANCELLED")
