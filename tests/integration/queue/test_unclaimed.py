"""† What Celery drops before a claim makes its transition in the ledger; what is no message does no harm."""

from __future__ import annotations

import json
import time

import pytest
from celery.exceptions import TaskRevokedError

from dynamo_tasks.errors import RequestFailedError, UnknownEndpointError
from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.queue.client.task import make_task
from tests.support.processes import Worker, until
from tests.support.promises import in_time
from tests.support.queue import Lab, not_consuming

pytestmark = pytest.mark.usefixtures("worker")


def test_expires_in_the_queue(lab: Lab, worker: Worker) -> None:
    with not_consuming(lab):
        result = lab.call("echo", 1, expires=0.2)
        lab.reaches(result.id, "EXPIRED")
        with pytest.raises(TaskRevokedError):
            result.get(timeout=30)
        with pytest.raises(RequestFailedError, match="time"):
            list(result)
    until(lambda: f"signal task_revoked {result.id}" in worker.output, what="Celery's signal")
    until(lambda: lab.record(result.id)["settled"] == "1", what="settled")
    assert (lab.length(), lab.unacked(), result.state) == (0, 0, "REVOKED")


def test_celery_drops_an_expired_message_itself(lab: Lab, worker: Worker) -> None:
    """One that the ledger does not know yet: nobody but Celery knows when it expires."""
    with not_consuming(lab):
        result = lab.app.send_task(f"{lab.namespace}.Lab.echo", args=(1,), queue=lab.queue, expires=0.1)
        time.sleep(0.11)  # the time that must pass is the test
    with pytest.raises(TaskRevokedError):
        result.get(timeout=15)
    until(lambda: f"signal task_revoked {result.id}" in worker.output, what="Celery's signal")
    until(lambda: lab.length() == 0, what="acknowledged")


def test_revoke_acts_at_once_on_what_waits(lab: Lab, worker: Worker) -> None:
    waiting = lab.call("echo", 1, countdown=60)
    lab.app.control.revoke(waiting.id)
    lab.reaches(waiting.id, "CANCELLED")
    with not_consuming(lab):
        queued = lab.call("echo", 1)
        lab.app.control.revoke(queued.id)
        lab.reaches(queued.id, "CANCELLED")
    until(lambda: f"signal task_revoked {queued.id}" in worker.output, what="Celery's signal")
    until(lambda: lab.record(queued.id)["settled"] == "1", what="settled")
    for result in (waiting, queued):
        with pytest.raises(TaskRevokedError):
            result.get(timeout=30)


def test_a_revoked_message_without_a_cancelled_record(lab: Lab) -> None:
    """The drop of Celery itself, where the revoke reached the worker before the request was submitted."""
    lab.app.control.revoke("revoked-beforehand", reply=True, timeout=5, limit=1)
    result = lab.call("echo", 1, task_id="revoked-beforehand")
    lab.reaches(result.id, "CANCELLED")
    with pytest.raises(TaskRevokedError):
        result.get(timeout=30)


def test_a_redelivered_message_of_a_revoked_id_does_not_touch_the_running_one(lab: Lab) -> None:
    result = lab.call("count", {"n": 30, "delay": 0.02})
    lab.reaches(result.id, "RUNNING")
    message = lab.record(result.id)["message"]
    lab.app.control.revoke(result.id, reply=True, timeout=5, limit=1)
    lab.redis.rpush(lab.queue, message)
    assert list(result) == list(range(30))
    assert result.get(timeout=30) == list(range(30))


def test_one_of_twenty_streams_is_revoked(lab: Lab, worker: Worker) -> None:
    results = [lab.call("count", {"n": 200, "delay": 0.02, "wall": True}) for _ in range(20)]
    for result in results:
        lab.reaches(result.id, "RUNNING")
    victims = []

    def stopped_after() -> float:
        victim = results.pop(7)
        victims.append(victim)
        asked = time.time()
        lab.app.control.revoke(victim.id, terminate=True)
        line = until(
            lambda: next((x for x in worker.output.splitlines() if f"LAB stopped {victim.id}" in x), None)
        )
        return float(line.split()[-1]) - asked

    in_time(stopped_after, 0.1)
    for victim in victims:
        with pytest.raises(TaskRevokedError):
            victim.get(timeout=30)
        lab.reaches(victim.id, "CANCELLED")
    assert [list(result) for result in results] == [list(range(200))] * (20 - len(victims))
    for victim in victims:
        until(lambda one=victim.id: worker.output.count(f"signal task_revoked {one}") == 1, what="one signal")


def test_unknown_tasks_fail_their_requests(lab: Lab) -> None:
    result = make_task(lab.app, EndpointId(lab.namespace, "Lab", "nope")).apply_async(({},))
    lab.reaches(result.id, "FAILED")
    with pytest.raises(UnknownEndpointError):
        list(result)
    assert result.state == "FAILURE"
    until(lambda: lab.unacked() == 0, what="all acked")


def test_messages_that_celery_refuses_fail_their_requests(lab: Lab) -> None:
    with not_consuming(lab):
        results = [lab.call("echo", 1), lab.call("echo", 2)]
        first, second = (json.loads(lab.redis.lindex(lab.queue, -1 - i)) for i in range(2))
        lab.redis.delete(lab.queue)
        first["headers"]["expires"] = "not a time"
        second["content-type"] = "application/x-python-serialize"
        lab.redis.lpush(lab.queue, json.dumps(first), json.dumps(second))
    for result in results:
        lab.reaches(result.id, "FAILED")
    assert lab.call("echo", 3).get(timeout=30) == 3


@pytest.mark.parametrize(
    "raw",
    [
        b"not json", b"\xff\xfe", b"[]", b"3", b"{}", b'{"body": "x"}', b'{"properties": 1}',
        b'{"properties": {"delivery_tag": "1"}, "headers": {}}',
        b'{"properties": {"delivery_tag": "1", "delivery_info": {}}, "headers": {}}',
        b'{"properties": {"delivery_tag": "1", "delivery_info": {"exchange": "", "routing_key": "x"}}, "headers": 7}',
        b'{"body": "a", "properties": {"delivery_tag": "1", "body_encoding": "base64", "delivery_info": '
        b'{"exchange": "", "routing_key": "x"}}, "headers": {}}',
    ],
)  # fmt: skip
def test_what_is_no_message_is_dropped_with_one_line(lab: Lab, worker: Worker, raw: bytes) -> None:
    before = worker.output.count("message.malformed")
    lab.redis.lpush(lab.queue, raw)
    until(lambda: worker.output.count("message.malformed") == before + 1, what="the line")
    assert lab.call("echo", 1).get(timeout=30) == 1
    assert worker.alive


def test_a_message_whose_record_is_gone_is_dropped(lab: Lab) -> None:
    """† It carries our header: another server, or a flush, took its record."""
    with not_consuming(lab):
        result = lab.call("echo", 1)
        lab.redis.delete(lab.keys.record(result.id))
    until(lambda: lab.length() == 0, what="the message to be taken")
    assert lab.call("echo", 2).get(timeout=30) == 2
    assert lab.events(result.id) == []


def test_redelivery_is_harmless(lab: Lab, worker: Worker) -> None:
    with not_consuming(lab):
        result = lab.call("count", {"n": 5, "delay": 0.02})
        message = lab.redis.lindex(lab.queue, 0)
        lab.redis.lpush(lab.queue, message, message)
    assert list(result) == list(range(5))
    lab.redis.lpush(lab.queue, message)
    until(lambda: lab.length() == 0, what="the message to be taken")
    assert lab.call("echo", 1).get(timeout=30) == 1
    assert [kind for _, fields in lab.events(result.id) for kind in fields].count(b"k") == 1
