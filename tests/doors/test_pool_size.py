"""How many run at once follows what the worker is told, at its start and later, whatever kind of code it is."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import redis
from celery import Celery

from dynamo_tasks.protocol.names import EndpointId
from dynamo_tasks.queue.app import create_app
from dynamo_tasks.queue.client.task import make_task
from tests.support.processes import Worker, together, until
from tests.support.server import RedisServer

KINDS = ("on_loop", "in_thread", "nap")
NAP = 0.2


class Node:
    """One worker, and its calls."""

    def __init__(self, server: RedisServer, namespace: str, *arguments: str):
        self.worker = Worker(
            server.url, "-Q", f"{namespace}|Sized,{namespace}", *arguments, app="tests.support.sized",
            service="tests.support.sized:Sized", name=namespace, env={"SIZED_NAMESPACE": namespace},
        )  # fmt: skip
        self.namespace = namespace
        self.app: Celery = create_app(namespace, server_url=server.url, make_host=lambda *_, **__: None)

    def call(self, kind: str, seconds: float) -> Any:
        """Start one."""
        if kind == "nap":
            return self.app.send_task("sized.nap", ({"sleep": seconds},), queue=self.namespace)
        return make_task(self.app, EndpointId(self.namespace, "Sized", kind)).delay({"sleep": seconds})

    def at_once(self, kind: str, count: int) -> int:
        """The most of so many that ran at one time."""
        calls = [self.call(kind, NAP) for _ in range(count)]
        spans = [one.get(timeout=60) for one in calls]
        return max(sum(began <= at < ended for began, ended in spans) for at, _ in spans)

    def fills(self, kind: str, slots: int) -> None:
        """Twice as many calls as slots fill them all, and never more: on a busy machine, not each time."""

        def full() -> bool:
            most = self.at_once(kind, 2 * slots)
            assert most <= slots
            return most == slots

        until(full, 60, what=f"{slots} run at once")

    def told(self, command: str, **arguments: Any) -> Any:
        """A command's reply."""
        answers = self.app.control.broadcast(
            command, arguments=arguments, reply=True, timeout=10, limit=1, pattern=f"{self.namespace}@*",
            matcher="glob",
        )  # fmt: skip
        return next(iter(answers[0].values()))

    @property
    def slots(self) -> tuple[int, int]:
        """Of the pool and of the registration, as ``inspect stats`` tells them."""
        stats = self.told("stats")
        return stats["prefetch_count"], stats["dynamo"]["capacity"]


@pytest.fixture(scope="module")
def nodes(redis_server: RedisServer) -> Iterator[dict[str, Node]]:
    fixed = Node(redis_server, "sized_fixed", "-c", "1")
    scaled = Node(redis_server, "sized_scaled", "--autoscale", "4,1")
    with together(fixed.worker, scaled.worker):
        yield {"fixed": fixed, "scaled": scaled}
    fixed.app.close()
    scaled.app.close()


def has(node: Node, slots: int) -> None:
    until(lambda: node.slots == (slots, slots), what=lambda: f"{slots} slots, has {node.slots}")


@pytest.mark.parametrize("kind", KINDS)
def test_a_pool_grows_and_shrinks(nodes: dict[str, Node], kind: str) -> None:
    node = nodes["fixed"]
    assert node.at_once(kind, 2) == 1
    assert "ok" in node.told("pool_grow", n=3)
    has(node, 4)
    assert node.told("stats")["pool"]["max-concurrency"] == 4
    node.fills(kind, 4)
    running = [node.call(kind, 4 * NAP) for _ in range(4)]
    until(lambda: len(node.told("active")) == 4, what="four that run")
    assert "ok" in node.told("pool_shrink", n=2)
    has(node, 2)
    assert node.at_once(kind, 4) <= 2
    assert all(one.get(timeout=20) for one in running), "what ran was not harmed"
    node.told("pool_shrink", n=99)
    has(node, 1)
    assert node.at_once(kind, 2) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_autoscale_and_its_limits(nodes: dict[str, Node], kind: str) -> None:
    node = nodes["scaled"]
    for most in (4, 6, 2):
        node.told("autoscale", max=most, min=1)
        has(node, most)
        node.fills(kind, most)
        scaler = node.told("stats")["autoscaler"]
        assert (scaler["max"], scaler["min"]) == (most, 1)
        assert scaler["current"] <= most


def test_a_pop_that_waits_brings_no_more_than_there_are_slots(
    redis_server: RedisServer, nodes: dict[str, Node]
) -> None:
    node, parked = nodes["fixed"], "sized_parked"
    assert "ok" in node.told("pool_grow", n=3)
    node.fills("nap", 4)  # and now it waits for four
    assert "ok" in node.told("pool_shrink", n=3)
    naps = [node.app.send_task("sized.nap", ({"sleep": NAP},), queue=parked) for _ in range(4)]
    with redis.Redis.from_url(redis_server.url) as client, client.pipeline(transaction=True) as all_at_once:
        for _ in naps:
            all_at_once.lmove(parked, node.namespace, "RIGHT", "LEFT")
        all_at_once.execute()
    spans = sorted(one.get(timeout=60) for one in naps)
    assert all(ended <= began for (_, ended), (began, _) in pairwise(spans))


def test_pool_commands_that_autoscaling_excludes_are_answered(nodes: dict[str, Node]) -> None:
    assert "autoscale" in str(nodes["scaled"].told("pool_grow", n=1))
    assert "autoscale" in str(nodes["scaled"].told("pool_shrink", n=1))
    assert "error" in nodes["fixed"].told("autoscale", max=3, min=1)
