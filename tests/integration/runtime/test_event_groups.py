"""Durable groups of subscribers: positions that the server keeps, at least once per group."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from dynamo_tasks import DistributedRuntime
from dynamo_tasks.errors import InvalidNameError, InvalidRequestError
from dynamo_tasks.runtime import Component
from dynamo_tasks.store.topics.subscriber import EventSubscription
from tests.integration.runtime.conftest import Session

Run = Callable[[Session], Any]


def _component(runtime: DistributedRuntime, name: str) -> Component:
    return runtime.namespace("own-groups").component(name)


async def _take(sub: EventSubscription, count: int) -> list[Any]:
    async with asyncio.timeout(10):
        return [(await anext(sub)).data() for _ in range(count)]


def test_a_group_goes_on_where_it_stopped(with_runtime: Run) -> None:
    async def session(runtime: DistributedRuntime) -> None:
        component = _component(runtime, "on")
        for number in range(5):
            await component.publish("t", number)
        first = component.subscribe("t", group="billing")
        assert await _take(first, 3) == [0, 1, 2]
        await first.aclose()  # 2 may not have been dealt with
        second = component.subscribe("t", group="billing")
        assert await _take(second, 3) == [2, 3, 4]
        await second.ack()  # type: ignore[attr-defined]
        await second.aclose()
        await component.publish("t", 5)
        async with component.subscribe("t", group="billing") as third:
            assert await _take(third, 1) == [5]
        async with component.subscribe("t", group="audit") as other:
            assert await _take(other, 6) == [0, 1, 2, 3, 4, 5]

    with_runtime(session)


def test_members_share_the_events_and_a_dead_ones_go_to_another(with_runtime: Run) -> None:
    async def session(runtime: DistributedRuntime) -> None:
        component = _component(runtime, "share")
        one, two = (component.subscribe("t", group="g", ack_wait=0.2) for _ in range(2))
        await one
        await two
        ids = [await component.publish("t", number) for number in range(40)]
        taken = await _take(one, 1)  # and a page of them with it; from here on it is as good as dead
        found = await _take(two, len(ids))
        assert taken == [0]
        assert sorted(set(found)) == list(range(40))
        await two.aclose()

    with_runtime(session)


@pytest.mark.parametrize("since", ["id", "time"])
def test_a_new_group_may_begin_later(with_runtime: Run, since: str) -> None:
    async def session(runtime: DistributedRuntime) -> None:
        component = _component(runtime, f"later-{since}")
        before = await component.publish("t", 0)
        while time.time() * 1000 <= int(before.partition("-")[0]) + 1:
            await asyncio.sleep(0.001)
        start = before if since == "id" else time.time()
        await component.publish("t", 1)
        async with component.subscribe("t", since=start, group="g") as sub:
            assert await _take(sub, 1) == [1]

    with_runtime(session)


def test_a_group_outlives_its_log(with_runtime: Run) -> None:
    async def session(runtime: DistributedRuntime) -> None:
        component = _component(runtime, "gone")
        await component.publish("t", 0)
        async with component.subscribe("t", group="g") as sub:
            assert await _take(sub, 1) == [0]
            key = runtime.client.store.keys("own-groups").events(str(component.subject("t")))
            await runtime.client.store.commands.execute("DEL", key)
            await component.publish("t", 1)
            assert await _take(sub, 1) == [1]

    with_runtime(session)


def test_a_member_waits_and_is_woken_up(with_runtime: Run) -> None:
    async def session(runtime: DistributedRuntime) -> None:
        component = _component(runtime, "wait")
        async with component.subscribe("t", group="g") as sub:
            key = runtime.client.store.keys("own-groups").events(str(component.subject("t")))
            assert await runtime.client.store.commands.execute("PTTL", key) > 0
            waiting = asyncio.create_task(_take(sub, 2))
            await component.publish("t", 0)
            await component.publish("t", 1)
            assert await waiting == [0, 1]
            pending = asyncio.ensure_future(anext(sub))
            await sub.aclose()
            with pytest.raises(StopAsyncIteration):
                await pending

    with_runtime(session)


def test_bad_groups_are_refused(with_runtime: Run) -> None:
    async def session(runtime: DistributedRuntime) -> None:
        component = _component(runtime, "bad")
        with pytest.raises(InvalidNameError, match="group"):
            component.subscribe("t", group="a b")
        with pytest.raises(InvalidRequestError, match="ack_wait"):
            component.subscribe("t", group="g", ack_wait=0)

    with_runtime(session)
