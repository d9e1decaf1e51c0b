"""What a worker process tells: its metrics at the system port, its log, Celery's own view of it."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from dynamo_tasks.runtime.inspect import snapshot
from dynamo_tasks.store.ledger.fields import Field
from tests.support.processes import Worker, until
from tests.support.queue import Lab


@pytest.fixture(scope="module")
def worker(lab: Lab) -> Iterator[Worker]:
    env = {"DYNAMO_SYSTEM_PORT": "0"}
    with lab.worker("-E", env=env, loglevel="debug") as process:
        yield process


def instance(lab: Lab) -> dict[str, Any]:
    (found,) = snapshot(lab.server.url, lab.namespace)["instances"]
    return dict(found)


def get(lab: Lab, path: str) -> str:
    with urllib.request.urlopen(
        f"http://127.0.0.1:{instance(lab)['system_port']}{path}", timeout=10
    ) as answer:
        return str(answer.read().decode())


def counted(lab: Lab, name: str, **labels: str) -> float:
    """A sample of the worker's metrics; 0 where it has none."""
    text = ",".join(f'{key}="{value}"' for key, value in labels.items())
    line = re.search(rf"^dynamo_tasks_{name}{{{re.escape(text)}}} (\S+)$", get(lab, "/metrics"), re.MULTILINE)
    return float(line[1]) if line else 0.0


def logged(worker: Worker, name: str, request_id: str) -> str:
    """The log line of an event of a request, once it is there."""
    pattern = re.compile(rf"{re.escape(name)} request_id={request_id}.*$", re.MULTILINE)
    return str(until(lambda: pattern.search(worker.output), what=f"{name} in the log").group())


def test_a_call_is_counted_and_reported(lab: Lab, worker: Worker) -> None:
    endpoint = f"{lab.namespace}.Lab.echo"
    before = counted(lab, "requests_finished_total", endpoint=endpoint, state="SUCCEEDED")
    result = lab.call("echo", 1)
    assert result.get(timeout=30) == 1
    assert f"endpoint={endpoint} attempt=1 epoch=" in logged(worker, "request.claimed", result.id)
    assert "state=SUCCEEDED" in logged(worker, "request.finished", result.id)
    assert counted(lab, "requests_finished_total", endpoint=endpoint, state="SUCCEEDED") == before + 1
    assert counted(lab, "requests_claimed_total", endpoint=endpoint) >= 1
    assert re.search(r"^dynamo_tasks_writer_flush_seconds_count [1-9]", get(lab, "/metrics"), re.MULTILINE)
    assert "config.loaded graph=" in worker.output


def test_probes_of_a_worker(lab: Lab, worker: Worker) -> None:
    assert json.loads(get(lab, "/live")) == {"status": "alive"}
    assert json.loads(get(lab, "/health")) == {"status": "healthy"}


def test_a_retry_is_reported(lab: Lab, worker: Worker) -> None:
    result = lab.call("flaky", {"until": 1})
    assert result.get(timeout=30) == 1
    line = logged(worker, "request.retried", result.id)
    assert f"endpoint={lab.namespace}.Lab.flaky retries=0" in line
    assert "not yet" in line


def test_a_fenced_attempt_is_counted_and_reported(lab: Lab, worker: Worker) -> None:
    endpoint = f"{lab.namespace}.Lab.count"
    before = counted(lab, "requests_fenced_total", endpoint=endpoint)
    result = lab.call("count", {"n": 1000, "delay": 0.02}, ignore_result=True)
    lab.reaches(result.id, "RUNNING")
    epoch = int(lab.record(result.id)["epoch"])
    # As a second owner does it: its claim, in the log and in the record.
    top = lab.redis.xrevrange(lab.keys.stream(result.id), count=1)[0][0]
    lab.redis.xadd(lab.keys.stream(result.id), {"k": f"{top}|2|1234"}, id=f"{epoch + 1}-0")
    lab.redis.hset(
        lab.keys.record(result.id),
        mapping={Field.EPOCH: epoch + 1, Field.OWNER: "1234", Field.NONCE: "other"},
    )
    assert f"endpoint={endpoint} epoch={epoch}" in logged(worker, "request.fenced", result.id)
    until(
        lambda: f"LAB stopped {result.id}" in worker.output,
        what="its body, and with it the engine, to be stopped",
    )
    assert counted(lab, "requests_fenced_total", endpoint=endpoint) == before + 1


def test_what_expires_in_its_queue_is_counted_and_reported(lab: Lab, worker: Worker) -> None:
    endpoint = f"{lab.namespace}.Lab.echo"
    before = counted(lab, "requests_finished_total", endpoint=endpoint, state="EXPIRED")
    result = lab.call("echo", 1, expires=-1)
    lab.reaches(result.id, "EXPIRED")
    assert f"endpoint={endpoint}" in logged(worker, "request.expired", result.id)
    assert counted(lab, "requests_finished_total", endpoint=endpoint, state="EXPIRED") == before + 1


def test_a_second_message_of_a_request_is_reported(lab: Lab, worker: Worker) -> None:
    result = lab.call("count", {"n": 100, "delay": 0.05}, ignore_result=True)
    lab.reaches(result.id, "RUNNING")
    lab.redis.rpush(lab.queue, lab.record(result.id)["message"])
    assert "reason=duplicate" in logged(worker, "request.duplicate", result.id)
    result.cancel()
    lab.reaches(result.id, "CANCELLED")


def test_celery_knows_the_load_of_an_instance(lab: Lab, worker: Worker) -> None:
    result = lab.call("count", {"n": 1000, "delay": 0.02}, ignore_result=True)

    def busy() -> Any:
        stats = lab.app.control.inspect(timeout=5, limit=1).stats() or {}
        facts: dict[str, Any] = next((one["dynamo"] for one in stats.values() if "dynamo" in one), {})
        return facts if facts.get("in_flight") else None

    facts = until(busy, what="a request in Celery's stats")
    shown = instance(lab)
    assert (facts["instance_id"], facts["system_port"]) == (shown["instance_id"], shown["system_port"])
    assert facts["capacity"] == shown["load"]["capacity"]
    result.cancel()


def test_heartbeats_report_what_runs(lab: Lab, worker: Worker) -> None:
    """What Flower's list of workers shows as active."""
    result = lab.call("count", {"n": 1000, "delay": 0.02}, ignore_result=True)
    lab.reaches(result.id, "RUNNING")
    seen: list[dict[str, Any]] = []

    def note(event: dict[str, Any]) -> None:
        if event["hostname"].startswith(f"{lab.namespace}@") and event.get(
            "active"
        ):  # Celery's answer to `wakeup` has none
            seen.append(event)
            receiver.should_stop = True

    with lab.app.connection_for_read() as connection:
        receiver = lab.app.events.Receiver(connection, handlers={"worker-heartbeat": note})
        receiver.capture(limit=None, timeout=15, wakeup=True)
    assert seen[0]["active"] >= 1
    result.cancel()
