"""Whatever becomes of a message, its request ends, once: recovered or dropped by the rules of the ledger.

Three workers die at once: one between the broker's pop and the claim, one between the end of a request and its
result, one between the result and the note that nothing is left to do. A fourth one does what remains.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from celery import chord

from dynamo_tasks.queue.client.result import StreamResult
from dynamo_tasks.store.ledger.scripts import script
from tests.support.faults import Line, kill_worker
from tests.support.processes import Worker, until
from tests.support.queue import SERVICE, Lab
from tests.support.server import RedisServer

NAMESPACE = "losses"


@dataclass
class Scene:
    """What was asked for, and who is left."""

    lab: Lab
    survivor: Worker
    results: dict[str, Any] = field(default_factory=dict)


class Victim:
    """A worker behind a line on which some command is held."""

    def __init__(self, lab: Lab, stack: contextlib.ExitStack, name: str, holds: str = ""):
        self.line = stack.enter_context(Line(lab.server.url))
        if holds:
            self.line.hold_command(holds)
        env = {"LAB_NAMESPACE": lab.namespace}
        worker = Worker(self.line.url, service=SERVICE, name=name, env=env, wait=False)
        self.worker = stack.enter_context(worker)

    def queue(self, endpoint: str) -> str:
        """Its own queue for an endpoint."""
        found = re.search(r"instance_id=([0-9a-f]+)", self.worker.output)
        assert found, self.worker.output
        return f"{NAMESPACE}|Lab.{endpoint}-{found[1]}"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with RedisServer(tmp_path_factory.mktemp("losses")) as server, contextlib.ExitStack() as stack:
        lab = Lab(server, NAMESPACE)
        stack.callback(lab.close)
        lost, twice = lab.call("echo", "lost"), lab.call("echo", "twice")
        (message,) = [raw for raw in lab.redis.lrange(lab.queue, 0, -1) if twice.id in raw]
        lab.redis.delete(lab.queue)
        lab.redis.lpush(lab.queue, message, message)
        survivor = Victim(lab, stack, "survivor")
        survivor.worker.wait_ready()
        made = Scene(lab, survivor.worker, {"lost": lost, "twice": twice, "message": message})
        _ask(made, survivor, stack)
        yield made


def _ask(scene: Scene, survivor: Victim, stack: contextlib.ExitStack) -> None:
    lab, results = scene.lab, scene.results
    popped = Victim(lab, stack, "popped", script("claim").sha)
    ended = Victim(lab, stack, "ended", "celery-task-meta-")
    unsettled = Victim(lab, stack, "unsettled", script("settle").sha)
    for victim in (popped, ended, unsettled):
        victim.worker.wait_ready()
    add, echo = lab.task("add"), lab.task("echo")
    results["popped"] = lab.call("echo", "popped", queue=popped.queue("echo"))
    header = [
        add.s({"x": 1}).set(queue=ended.queue("add")),
        add.s({"x": 10}).set(queue=survivor.queue("add")),
    ]
    results["chord"] = chord(header)(lab.task("total").s())
    results["link"] = link = echo.s().set(task_id="the-link")
    results["linked"] = lab.call("add", {"x": 20}, queue=unsettled.queue("add"), link=link)
    results["plain"] = lab.plain("doze").apply_async((60,), queue=unsettled.queue("add"))
    victims = (popped, ended, unsettled)
    until(lambda: all(victim.line.held for victim in victims) and lab.unacked(), what="all hands full")
    for victim in victims:
        kill_worker(victim.worker)
    results["direct"] = lab.call("echo", "direct", queue=popped.queue("echo"))


def _ended_once(scene: Scene, result: Any, value: Any, attempts: int) -> None:
    assert result.get(timeout=20) == value
    until(lambda: scene.lab.record(result.id).get("settled") == "1", what="settled")
    record = scene.lab.record(result.id)
    assert (record["state"], record["attempts"]) == ("SUCCEEDED", str(attempts)), record
    assert sum(b"e" in fields for _, fields in scene.lab.events(result.id)) == 1


def test_a_message_lost_from_the_broker_is_sent_again(scene: Scene) -> None:
    _ended_once(scene, scene.results["lost"], "lost", 1)


def test_a_message_delivered_twice_runs_once(scene: Scene) -> None:
    _ended_once(scene, scene.results["twice"], "twice", 1)


def test_a_message_delivered_after_the_end_is_dropped(scene: Scene) -> None:
    twice, lab = scene.results["twice"], scene.lab
    _ended_once(scene, twice, "twice", 1)
    before = lab.events(twice.id)
    lab.redis.lpush(lab.queue, scene.results["message"])
    assert lab.call("echo", "behind it").get(timeout=30) == "behind it"
    assert lab.events(twice.id) == before


def test_killed_between_the_pop_and_the_claim(scene: Scene) -> None:
    _ended_once(scene, scene.results["popped"], "popped", 1)


def test_what_waits_in_the_queue_of_a_dead_instance(scene: Scene) -> None:
    """It was sent there when its instance was dead already, and nobody had noticed."""
    _ended_once(scene, scene.results["direct"], "direct", 1)


def test_killed_between_the_end_and_the_result(scene: Scene) -> None:
    """Celery's completion is run by another worker: the chord is completed, once; the body does not run again."""
    body = scene.results["chord"]
    assert body.get(timeout=20) == 13
    assert scene.lab.record(body.id)["attempts"] == "1"
    assert [scene.lab.record(one.id)["attempts"] for one in body.parent.results] == ["1", "1"]


def test_killed_between_the_result_and_settle(scene: Scene) -> None:
    """The completion runs twice; the request that it starts has one id, and runs once."""
    _ended_once(scene, scene.results["linked"], {"x": 21}, 1)
    link = StreamResult("the-link", app=scene.lab.app)
    _ended_once(scene, link, {"x": 21}, 1)


def test_a_plain_task_that_ran_in_a_dead_worker_is_sent_again(scene: Scene) -> None:
    plain = scene.results["plain"]
    until(lambda: f"signal task_prerun {plain.id}" in scene.survivor.output, what="it runs again")
