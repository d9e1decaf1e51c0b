"""Objects of APIs: an owner's alone, changed by one at a time, listed as they were made, gone without a trace."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from msgspec import Struct

from dynamo_tasks.errors import (
    InvalidRequestError,
    ObjectConflictError,
    ObjectNotFoundError,
    PayloadTooLargeError,
    ProtocolError,
)
from dynamo_tasks.store.objects import ANYBODY, MOST_BYTES, ObjectKind, Objects
from dynamo_tasks.store.redis.server import Store
from tests.support.acl import server_with_users, url_of
from tests.support.server import RedisServer


class Note(Struct):
    text: str = ""
    count: int = 0


NOTE = ObjectKind("note", Note, most=50)
FILE = ObjectKind("paper", Note, swept=True)


class Lab:
    """The objects of a namespace of its own."""

    def __init__(self, store: Store):
        self.store = store
        self.namespace = f"objects-{uuid.uuid4().hex[:8]}"
        self.objects = Objects(store, self.namespace)

    async def names(self, order: str = "asc", after: str = "", limit: int = 20) -> list[str]:
        page = await self.objects.page(NOTE, "me", order=order, after=after, limit=limit)
        return [one.id for one in page.objects]

    async def keys(self) -> set[str]:
        """Keys of the namespace, without its name."""
        found = await self.store.commands.execute("KEYS", f"dt:{self.namespace}:*")
        return {key.decode().split(":", 2)[2] for key in found}


def on_server(test: Callable[[Lab], Awaitable[None]]) -> Callable[[RedisServer], None]:
    def run(redis_server: RedisServer) -> None:
        async def body() -> None:
            store = await Store.connect(redis_server.url)
            try:
                await test(Lab(store))
            finally:
                await store.close()

        asyncio.run(body())

    run.__name__ = test.__name__
    return run


async def eventually(check: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await check():
            await asyncio.sleep(0.02)


async def an_object_is_its_owners_alone(lab: Lab) -> None:
    made = await lab.objects.create(NOTE, "n1", "me", Note("hi"))
    assert await lab.objects.get(NOTE, "n1", "me") == made
    assert await lab.objects.get(NOTE, "n1", ANYBODY) == made
    for owner in ("you", ""):
        with pytest.raises(ObjectNotFoundError, match="no note 'n1' is known"):
            await lab.objects.get(NOTE, "n1", owner)
        with pytest.raises(ObjectNotFoundError):
            await lab.objects.delete(NOTE, "n1", owner)
        assert (await lab.objects.page(NOTE, owner)).objects == []
    for hostile in ("n1:data", "*", "", "a" * 200, "n 1"):
        with pytest.raises(ObjectNotFoundError):
            await lab.objects.get(NOTE, hostile, "me")


test_an_object_is_its_owners_alone = on_server(an_object_is_its_owners_alone)


async def a_change_is_made_once(lab: Lab) -> None:
    made = await lab.objects.create(NOTE, "n1", "me", Note("hi"))
    assert (await lab.objects.create(NOTE, "n1", "me", Note("hi"))).created == made.created  # a lost reply
    with pytest.raises(ObjectConflictError, match="exists"):
        await lab.objects.create(NOTE, "n1", "you", Note("hi"))
    changed = await lab.objects.replace(NOTE, made, Note("ho"), nonce="x")
    assert changed.revision == 2
    assert await lab.objects.replace(NOTE, made, Note("ho"), nonce="x") == changed  # a lost reply
    with pytest.raises(ObjectConflictError, match="somebody else"):
        await lab.objects.replace(NOTE, made, Note("ho"))  # not the same change
    await lab.objects.delete(NOTE, "n1", "me")
    with pytest.raises(ObjectNotFoundError):
        await lab.objects.replace(NOTE, changed, Note("he"))


test_a_change_is_made_once = on_server(a_change_is_made_once)


async def no_change_is_lost_among_many(lab: Lab) -> None:
    await lab.objects.create(NOTE, "n1", "me", Note())
    more = lambda note: Note(note.text, note.count + 1)  # noqa: E731
    await asyncio.gather(*(lab.objects.change(NOTE, "n1", "me", more) for _ in range(8)))
    assert (await lab.objects.get(NOTE, "n1", "me")).data.count == 8


test_no_change_is_lost_among_many = on_server(no_change_is_lost_among_many)


async def a_list_is_in_the_order_of_creation(lab: Lab) -> None:
    names = [f"n{i}" for i in (5, 3, 9, 1, 7)]
    for name in names:
        await lab.objects.create(NOTE, name, "me", Note(name))
    assert await lab.names() == names
    assert await lab.names("desc") == names[::-1]
    assert await lab.names(limit=2) == names[:2]
    assert await lab.names(after="n3", limit=2) == names[2:4]
    assert await lab.names("desc", after="n3") == ["n5"]
    page = await lab.objects.page(NOTE, "me", order="asc", after="n3", limit=3)
    assert (page.more, page.objects[0].data) == (False, Note("n9"))
    assert (await lab.objects.page(NOTE, "me", limit=4)).more
    with pytest.raises(InvalidRequestError, match="go on after"):
        await lab.names(after="nobody")


test_a_list_is_in_the_order_of_creation = on_server(a_list_is_in_the_order_of_creation)


async def who_deletes_while_he_pages_sees_all(lab: Lab) -> None:
    names = [f"n{i}" for i in range(7)]
    for name in names:
        await lab.objects.create(NOTE, name, "me", Note(name))
    seen, after = [], ""
    while found := await lab.names(after=after, limit=3):
        for name in found:
            await lab.objects.delete(NOTE, name, "me")
        seen += found
        after = found[-1]
    assert seen == names


test_who_deletes_while_he_pages_sees_all = on_server(who_deletes_while_he_pages_sees_all)


async def sizes_and_numbers_are_bounded(lab: Lab) -> None:
    with pytest.raises(PayloadTooLargeError, match="at most"):
        await lab.objects.create(NOTE, "n1", "me", Note("x" * MOST_BYTES))
    for i in range(50):
        await lab.objects.create(NOTE, f"n{i}", "me", Note("x" * 200_000))
    with pytest.raises(InvalidRequestError, match="there are 50 objects of the kind note"):
        await lab.objects.create(NOTE, "more", "me", Note())
    page = await lab.objects.page(NOTE, "me", limit=100)
    assert page.more
    assert len(page.objects) == 20  # of 4 MiB
    await lab.objects.delete(NOTE, "n0", "me")
    await lab.objects.create(NOTE, "more", "me", Note())


test_sizes_and_numbers_are_bounded = on_server(sizes_and_numbers_are_bounded)


async def what_has_ended_leaves_its_list(lab: Lab) -> None:
    await lab.objects.create(NOTE, "short", "me", Note(), ttl=0.05)
    await lab.objects.create(NOTE, "long", "me", Note(), ttl=100)
    await eventually(lambda: _is(lab.names(), ["long"]))
    assert "object:note:short" not in await lab.keys()
    key = f"dt:{lab.namespace}:objects:note:me"
    left = await lab.store.commands.execute("PTTL", key)
    assert 600_000 < left <= 700_000  # the last of them, and the time for which places are kept
    kept = await lab.objects.create(NOTE, "for-good", "me", Note())
    assert await lab.store.commands.execute("PTTL", key) == -1
    shorter = await lab.objects.replace(NOTE, kept, Note("x"), ttl=50)
    assert shorter.ends == pytest.approx(kept.created + 50, abs=20)
    assert 600_000 < await lab.store.commands.execute("PTTL", key) <= 700_000
    assert (await lab.objects.replace(NOTE, shorter, Note("y"))).ends == shorter.ends


test_what_has_ended_leaves_its_list = on_server(what_has_ended_leaves_its_list)


async def _is(found: Awaitable[object], wanted: object) -> bool:
    return await found == wanted


async def contents_of_deleted_ones_are_swept(lab: Lab) -> None:
    for name, ttl in (("a", None), ("b", 0.05), ("c", None)):
        await lab.objects.create(FILE, name, "me", Note(), ttl=ttl)
    await lab.objects.delete(FILE, "a", "me")
    found: set[str] = set()

    async def all_due() -> bool:
        found.update(await lab.objects.sweep(FILE, lease=0.05))
        return found == {"a", "b"}

    await eventually(all_due)
    await lab.objects.sweep(FILE, ["a"], lease=0.05)
    await eventually(lambda: _is(lab.objects.sweep(FILE, lease=0.05), ["b"]))  # given out until it is swept
    await lab.objects.sweep(FILE, ["b"])
    assert not {key for key in await lab.keys() if "waste" in key or "remains" in key}


test_contents_of_deleted_ones_are_swept = on_server(contents_of_deleted_ones_are_swept)


async def what_was_never_finished_is_swept(lab: Lab) -> None:
    await lab.objects.reserve(FILE, "slow", 0.02)
    await lab.objects.reserve(FILE, "quick", 60)
    await lab.objects.reserve(FILE, "quick", 60, renew=True)
    await lab.objects.create(FILE, "quick", "me", Note(), reserved=True)
    await eventually(lambda: _is(lab.objects.sweep(FILE), ["slow"]))
    with pytest.raises(ObjectConflictError, match="longer than it may"):
        await lab.objects.reserve(FILE, "slow", 60, renew=True)
    with pytest.raises(ObjectConflictError, match="longer than it may"):
        await lab.objects.create(FILE, "slow", "me", Note(), reserved=True)
    await lab.objects.reserve(FILE, "left", 60)
    await lab.objects.reserve(FILE, "left", 0)  # its client has gone
    assert await lab.objects.sweep(FILE) == ["left"]


test_what_was_never_finished_is_swept = on_server(what_was_never_finished_is_swept)


async def garbage_hides_nothing(lab: Lab) -> None:
    for name in ("a", "b", "c"):
        await lab.objects.create(NOTE, name, "me", Note())
    await lab.store.commands.execute("HSET", f"dt:{lab.namespace}:object:note:b", "data", b"\xc1garbage")
    assert await lab.names() == ["a", "c"]
    with pytest.raises(ProtocolError):
        await lab.objects.get(NOTE, "b", "me")


test_garbage_hides_nothing = on_server(garbage_hides_nothing)


@pytest.mark.parametrize("user", ["frontend", "worker"])
def test_the_shipped_users_may_do_all_of_it(tmp_path: Path, user: str) -> None:
    async def body() -> None:
        store = await Store.connect(url_of(server, user))
        objects = Objects(store, "shop")
        try:
            made = await objects.create(FILE, "a", "me", Note(), ttl=60)
            await objects.replace(FILE, made, Note("x"), ttl=None)
            assert len((await objects.page(FILE, "me")).objects) == 1
            await objects.reserve(FILE, "b", 0)
            await objects.delete(FILE, "a", "me")
            assert await objects.sweep(FILE) == ["a", "b"]
        finally:
            await store.close()

    with server_with_users(tmp_path) as server:
        asyncio.run(body())
