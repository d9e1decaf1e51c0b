"""What a worker announces is what it takes messages of, and nothing of a worker that is gone stays in Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from dynamo_tasks import DistributedRuntime
from tests.support.processes import together, until
from tests.support.queue import Lab
from tests.support.server import RedisServer

POLICIES = ("random", "round_robin", "power_of_two", "least_loaded", "direct")


@pytest.fixture(scope="module")
def labs(redis_server: RedisServer) -> Iterator[dict[str, Lab]]:
    """One worker for each way to name queues."""
    made = {name: Lab(redis_server, f"queues_{name}") for name in ("named", "only_extra", "excluded")}
    asked = {
        "named": ("-Q", f"{made['named'].queue},reports"),
        "only_extra": ("-Q", "queues_only_extra"),
        "excluded": ("-X", made["excluded"].queue),
    }
    with together(*(lab.worker(*asked[name]) for name, lab in made.items())):
        yield made
    for lab in made.values():
        lab.close()


def announced(lab: Lab) -> set[str]:
    """Endpoints whose instances can be found."""
    return {member.split(":")[1] for member in lab.redis.smembers(lab.keys.instances)}


async def _ask(lab: Lab, policy: str) -> Any:
    async with asyncio.timeout(30), await DistributedRuntime.create(lab.url) as runtime:
        client = await runtime.namespace(lab.namespace).component("Lab").endpoint("echo").client()
        await client.wait_for_instances()
        chosen = (client.instance_ids()[0],) if policy == "direct" else ()
        return [item.data() async for item in getattr(client, policy)(policy, *chosen)]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", ["named", "excluded"])
def test_an_announced_instance_answers(labs: dict[str, Lab], name: str, policy: str) -> None:
    assert asyncio.run(_ask(labs[name], policy)) == [policy]


def test_a_worker_of_other_queues_announces_nothing(labs: dict[str, Lab]) -> None:
    lab = labs["only_extra"]
    assert announced(lab) == set()
    assert lab.call("echo", 1, queue="queues_only_extra").get(timeout=30) == 1


def test_queues_of_ones_own_are_consumed_beside(labs: dict[str, Lab]) -> None:
    plus = labs["named"].app.signature("queues_named.plus", args=(1,), queue="reports")
    assert plus.apply_async().get(timeout=30) == 2
    waits = labs["excluded"].call("echo", 1)
    assert asyncio.run(_ask(labs["excluded"], "direct")) == ["direct"]
    assert labs["excluded"].state(waits.id) == "QUEUED"


def test_announcements_follow_what_is_consumed(labs: dict[str, Lab]) -> None:
    lab = labs["named"]
    control, node = (
        lab.app.control,
        {"pattern": "queues_named@*", "matcher": "glob", "reply": True, "limit": 1},
    )

    def told(command: str, queue: str) -> None:
        assert control.broadcast(command, arguments={"queue": queue}, timeout=10, **node)

    own = next(q for q in lab.redis.smembers(lab.keys.instances) if q.startswith("Lab:echo:"))
    queue = f"{lab.queue}.echo-{own.rpartition(':')[2]}"
    before = announced(lab)
    told("cancel_consumer", queue)
    until(lambda: announced(lab) == before - {"echo"}, what="echo to leave")
    told("add_consumer", queue)
    until(lambda: announced(lab) == before, what="echo to be back")
    assert asyncio.run(_ask(lab, "direct")) == ["direct"]


def test_a_component_that_is_added_brings_its_instance(labs: dict[str, Lab]) -> None:
    lab = labs["only_extra"]
    lab.app.control.broadcast(
        "add_consumer", arguments={"queue": lab.queue}, pattern="queues_only_extra@*", matcher="glob"
    )
    until(lambda: "echo" in announced(lab), what="it to be announced")
    assert asyncio.run(_ask(lab, "round_robin")) == ["round_robin"]


@pytest.mark.slow
def test_no_binding_outlives_its_worker(own_server: RedisServer) -> None:
    lab = Lab(own_server, "lives")

    def bindings() -> set[str]:
        return {f"{key} {one}" for key in lab.redis.scan_iter("_kombu.binding*") if lab.redis.type(key) == "set"
                for one in lab.redis.smembers(key)}  # fmt: skip

    with lab.worker("-E", name="first") as worker:
        assert lab.call("echo", 1).get(timeout=30) == 1
        assert lab.app.control.inspect(timeout=5, limit=1).ping()
        lab.app.close()
        worker.terminate()
    with lab.worker("-E", name="second") as worker:
        assert lab.app.control.inspect(timeout=5, limit=1).ping()
        worker.kill()
    assert {line.split()[0].rpartition(".")[2] for line in bindings()} <= {"dynamo-tasks", "pidbox"}
    assert not [line for line in bindings() if "@" in line or "lives" in line]
    lab.close()
