"""Conversations on a real server: turns, items once, their order, their end."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from dynamo_tasks.errors import ConversationLockedError, InvalidRequestError, ObjectNotFoundError
from dynamo_tasks.store.conversations import CONVERSATION, MOST_BYTES, Conversation, Conversations, Opened
from dynamo_tasks.store.objects import Objects
from dynamo_tasks.store.redis.server import Store
from tests.support.server import RedisServer

NAME = "conv_1"
ONE, TWO = Opened(NAME, "r1"), Opened(NAME, "r2")


class Talks(Conversations):
    """Conversations of a namespace, with its keys."""

    def __init__(self, store: Store, namespace: str):
        super().__init__(store, namespace, Objects(store, namespace))
        self.store, self.keys = store, store.keys(namespace)


def items(*names: str) -> list[dict[str, Any]]:
    return [{"id": name, "type": "message"} for name in names]


def on_server(test: Callable[[Talks], Awaitable[None]]) -> Callable[[RedisServer], None]:
    def run(redis_server: RedisServer) -> None:
        async def body() -> None:
            store = await Store.connect(redis_server.url)
            made = Talks(store, f"talks-{uuid.uuid4().hex[:8]}")
            await made.objects.create(CONVERSATION, NAME, "me", Conversation(), ttl=100)
            try:
                await test(made)
            finally:
                await store.close()

        asyncio.run(body())

    run.__name__ = test.__name__
    return run


async def names(known: Conversations) -> list[str]:
    return [item["id"] for item in (await known.snapshot(NAME)).items]


@on_server
async def test_a_response_adds_its_items_once(known: Conversations) -> None:
    await known.append(NAME, "me", items("a"))
    await known.open(ONE, "me", (await known.snapshot(NAME)).changes)
    added = await asyncio.gather(*[known.append(NAME, "", items("b", "c"), request="r1") for _ in range(5)])
    assert sorted(added) == [False] * 4 + [True]
    assert await names(known) == ["a", "b", "c"]
    assert (await known.snapshot(NAME)).opened == ""
    assert await known.opened(10, 0) == []


@on_server
async def test_one_that_was_deleted_meanwhile_does_not_come_back(known: Conversations) -> None:
    await known.open(ONE, "me", "0")
    assert await known.append(NAME, "", items("a"), request="r1")
    await known.remove(NAME, "me", "a")
    assert not await known.append(NAME, "", items("a"), request="r1")
    assert await names(known) == []


@on_server
async def test_one_turn_at_a_time(known: Conversations) -> None:
    await known.open(ONE, "me", "0")
    await known.open(ONE, "me", "0")  # the reply was lost
    with pytest.raises(ConversationLockedError):
        await known.open(TWO, "me", "0")
    await known.close(ONE)
    await known.open(TWO, "me", "0")
    assert not await known.append(NAME, "", items("late"), request="r1")
    assert (await known.snapshot(NAME)).opened == "r2"


@on_server
async def test_who_knows_older_items_may_not_begin(known: Conversations) -> None:
    before = await known.snapshot(NAME)
    await known.append(NAME, "me", items("a"))
    with pytest.raises(ConversationLockedError):
        await known.open(ONE, "me", before.changes)


@on_server
async def test_others_see_nothing_and_change_nothing(known: Conversations) -> None:
    for action in (
        known.open(ONE, "other", "0"), known.append(NAME, "other", items("a")), known.remove(NAME, "other", "a"),
        known.delete(NAME, "other"),
    ):  # fmt: skip
        with pytest.raises(ObjectNotFoundError):
            await action
    assert await names(known) == []


@on_server
async def test_pages(known: Conversations) -> None:
    await known.append(NAME, "me", items("a", "b", "c"))
    page, more = await known.page(NAME, order="desc", after="", limit=2)
    assert ([item["id"] for item in page], more) == (["c", "b"], True)
    page, more = await known.page(NAME, order="desc", after="b", limit=2)
    assert ([item["id"] for item in page], more) == (["a"], False)
    page, _ = await known.page(NAME, order="asc", after="a", limit=5)
    assert [item["id"] for item in page] == ["b", "c"]
    with pytest.raises(InvalidRequestError):
        await known.page(NAME, order="asc", after="x", limit=5)
    with pytest.raises(InvalidRequestError):
        await known.append(NAME, "me", items("d"), most=3)


@on_server
async def test_bytes_are_counted_as_they_come_and_go(known: Conversations) -> None:
    large = {"id": "a", "text": "x" * (MOST_BYTES - 100)}
    await known.append(NAME, "me", [large], most=10)
    with pytest.raises(InvalidRequestError):
        await known.append(NAME, "me", [{"id": "b", "text": "y" * 200}], most=10)
    await known.remove(NAME, "me", "a")
    await known.append(NAME, "me", [{"id": "b", "text": "y" * 200}], most=10)


@on_server
async def test_items_live_like_their_conversation(known: Talks) -> None:
    await known.append(NAME, "me", items("a"))
    store, keys = known.store.commands, known.keys
    parts = (keys.conversation(NAME), keys.conversation_order(NAME), keys.conversation_items(NAME))
    lives = [await store.execute("TTL", key) for key in (keys.object("conversation", NAME), *parts)]
    assert lives[0] <= 100
    assert all(100 < left <= 160 for left in lives[1:])
    await known.open(ONE, "me", "1")
    await known.delete(NAME, "me")
    assert [await store.execute("EXISTS", key) for key in parts] == [0, 0, 0]
    with pytest.raises(ObjectNotFoundError):
        await known.append(NAME, "", items("b"), request="r1")
    assert [await store.execute("EXISTS", key) for key in (*parts, keys.open_conversations)] == [0] * 4


@on_server
async def test_what_goes_on_is_looked_at_by_one_at_a_time(known: Conversations) -> None:
    await known.open(ONE, "me", "0")
    assert await known.opened(10, 0) == [ONE]
    assert await known.opened(10, 60) == []
    assert await known.opened(10, 0) == [ONE]
