"""Who empties or deletes a queue ends what waited in it; nothing of it comes back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from celery import chord
from celery.exceptions import ChordError, TaskRevokedError

from dynamo_tasks.errors import RequestCancelledError
from tests.support.processes import ROOT, environment, until
from tests.support.queue import Lab, not_consuming
from tests.support.server import RedisServer

CELERY = str(Path(sys.executable).parent / "celery")


@pytest.fixture
def lab(redis_server: RedisServer, request: pytest.FixtureRequest) -> Iterator[Lab]:
    made = Lab(redis_server, f"purged_{request.node.callspec.id}".replace(" ", "_"))
    yield made
    made.close()


def _console(lab: Lab) -> int:
    done = subprocess.run(
        [CELERY, "-A", "dynamo_tasks", "purge", "-f", "-Q", lab.queue], env=environment(lab.url), cwd=ROOT,
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return int(done.stdout.removeprefix("Purged ").partition(" ")[0])


def _control(lab: Lab) -> int:
    lab.app.amqp.queues.select([lab.queue])
    return int(lab.app.control.purge())


def _kombu(lab: Lab) -> int:
    with lab.app.connection_for_write() as connection:
        return int(lab.app.amqp.queues[lab.queue](connection.default_channel).purge())


def _deleted(lab: Lab) -> int:
    with lab.app.connection_for_write() as connection:
        waits = sum(lab.app.amqp.queues[lab.queue](connection.default_channel).queue_declare()[1:2])
        connection.default_channel.queue_delete(lab.queue)
    return int(waits) + 1  # what waits for its time is in no queue yet


@pytest.mark.parametrize(
    "way",
    [_console, *(pytest.param(way, marks=pytest.mark.slow) for way in (_control, _kombu, _deleted))],
    ids=["console", "control", "kombu", "deleted"],
)
def test_what_is_purged_has_ended(lab: Lab, way: Callable[[Lab], int]) -> None:
    kept = [lab.call("echo", i) for i in range(30)]
    unkept = [lab.call("echo", i, ignore_result=True, priority=i % 10) for i in range(30)]
    later = lab.call("echo", 1, countdown=3600)
    lab.redis.rpush(lab.queue, "a message of somebody else")
    assert way(lab) == 62
    calls = [*kept, *unkept, later]
    assert {lab.state(call.id) for call in calls} == {"CANCELLED"}
    left = {key for pattern in (f"{lab.keys.base}*", f"{lab.queue}*") for key in lab.redis.scan_iter(pattern)}
    assert {key.removeprefix(lab.keys.base).partition(":")[0] for key in left} == {"req", "log"}
    assert all(lab.redis.pttl(key) > 0 for key in left)
    for ended in (kept[0], kept[-1], later):
        with pytest.raises(TaskRevokedError):
            ended.get(timeout=30)
    with pytest.raises(RequestCancelledError, match="purged"):
        list(unkept[0])


@pytest.mark.parametrize("way", [_kombu], ids=["others"])
def test_what_runs_or_waits_elsewhere_is_left_alone(lab: Lab, way: Callable[[Lab], int]) -> None:
    other = Lab(lab.server, "purged_neighbour")
    elsewhere = other.call("echo", 1)
    with lab.worker():
        running = lab.call("count", {"n": 3, "delay": 0.3})
        lab.reaches(running.id, "RUNNING")
        way(lab)
        assert running.get(timeout=30) == [0, 1, 2]
        assert lab.call("echo", 7).get(timeout=30) == 7
    assert other.state(elsewhere.id) == "QUEUED"
    _kombu(other)
    other.close()


@pytest.mark.parametrize("way", [_kombu], ids=["chords"])
def test_a_chord_hears_that_parts_of_it_were_purged(lab: Lab, way: Callable[[Lab], int]) -> None:
    """Whoever waits, in whichever process, and the errback of its body; nothing of it stays or runs."""
    add, plus = lab.task("add"), lab.app.signature(f"{lab.namespace}.plus", (1,), queue="dynamo-tasks")
    body = lab.task("total").s().on_error(lab.app.signature(f"{lab.namespace}.errback", queue="dynamo-tasks"))
    with lab.worker() as worker:
        with not_consuming(lab):
            made = [
                chord([add.s({"x": 1}), add.s({"x": 2})], body).delay(),
                chord([plus, add.s({"x": 2})], body).delay(),
            ]
            until(lambda: lab.length() == 3, what="parts that wait")
            assert way(lab) == 3
            assert (way(lab), lab.length()) == (0, 0)
        for one in made:
            with pytest.raises(ChordError, match="purged"):
                lab.app.AsyncResult(one.id).get(timeout=30)
        until(lambda: worker.output.count("LAB errback") == 2, what=lambda: worker.output)
        assert lab.redis.zcard(lab.keys.queued) == 0
        assert lab.length() == 0
