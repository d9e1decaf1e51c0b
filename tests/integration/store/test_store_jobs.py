"""Commits of pipelines' tasks: all or nothing, once, by the owner alone."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from dynamo_tasks.errors import RequestNotFoundError
from dynamo_tasks.store.job_records import Commit, RecordChunk
from dynamo_tasks.store.jobs import Jobs
from dynamo_tasks.store.ledger.fields import Field
from dynamo_tasks.store.redis.server import Store
from tests.support.server import RedisServer

CLAIM = (0xABC, 1000)
Test = Callable[["Lab"], Awaitable[None]]


class Lab:
    """A job of two tasks, ``a`` before ``b``, and the request that runs ``a``."""

    def __init__(self, store: Store):
        self.store = store
        self.jobs = Jobs(store, f"jobs-{uuid.uuid4().hex[:8]}")
        self.keys = store.keys(self.jobs.namespace)

    async def begin(self) -> None:
        await self.jobs.start("j", "lab", b"{}", {"a": 0, "b": 1}, [])
        for request, (lease, epoch) in (("ra", CLAIM), ("rb", CLAIM)):
            await self.store.commands.execute(
                "HSET",
                self.keys.record(request),
                Field.STATE,
                "RUNNING",
                Field.OWNER,
                f"{lease:x}",
                Field.EPOCH,
                epoch,
            )

    async def commit(
        self, task: str, number: int, claim: tuple[int, int] = CLAIM, *, most_waiting: int = 5, **more: Any
    ) -> str:
        commit = Commit(task=task, number=number, **more)
        return await self.jobs.commit("j", f"r{task}", claim, commit, most_waiting=most_waiting, most_dead=2)

    async def waiting(self) -> list[Any]:
        entries, _ = await self.jobs.input("j", "b", 100)
        return [record for _, records in entries for record in records]


def on_server(test: Test) -> Callable[[RedisServer], None]:
    """Run a test on a store of its own."""

    def run(redis_server: RedisServer) -> None:
        async def body() -> None:
            store = await Store.connect(redis_server.url)
            try:
                lab = Lab(store)
                await lab.begin()
                await test(lab)
            finally:
                await store.close()

        asyncio.run(body())

    run.__name__ = test.__name__
    return run


@on_server
async def test_a_commit_that_is_sent_again_changes_nothing(lab: Lab) -> None:
    output = [RecordChunk("b", [[None, 1], [None, 2]])]
    for _ in range(2):
        assert await lab.commit("a", 1, outputs=output, counts={"out": 2}, position=b"2") == "OK"
    assert await lab.waiting() == [[None, 1], [None, 2]]
    a, b = await lab.jobs.checkpoints("j", ["a", "b"])
    assert (a.number, a.position, a.counts["out"], b.waiting) == (1, b"2", 2, 2)


@on_server
async def test_only_the_owner_of_the_request_commits(lab: Lab) -> None:
    output = [RecordChunk("b", [[None, 1]])]
    for other in ((0xABD, 1000), (0xABC, 999), (0xABC, 1001)):
        assert await lab.commit("a", 1, other, outputs=output) == "FENCED"
    await lab.store.commands.execute("HSET", lab.keys.record("ra"), Field.STATE, "QUEUED")
    assert await lab.commit("a", 1, outputs=output) == "FENCED"
    assert await lab.waiting() == []


@on_server
async def test_where_too_much_waits_nothing_is_done(lab: Lab) -> None:
    assert await lab.commit("a", 1, outputs=[RecordChunk("b", [[None, n] for n in range(5)])]) == "OK"
    full = {"outputs": [RecordChunk("b", [[None, 5]])], "results": ["r"], "dead": ["d"], "counts": {"in": 1}}
    assert await lab.commit("a", 2, **full) == "FULL"
    assert await lab.jobs.results("j", 0) == []
    assert await lab.jobs.dead_letters("j") == []
    [a] = await lab.jobs.checkpoints("j", ["a"])
    assert (a.number, a.counts["in"]) == (1, 0)
    entries, _ = await lab.jobs.input("j", "b", 10)
    consumed = {"consumed": [entry for entry, _ in entries], "consumed_records": 5}
    assert await lab.commit("b", 1, **consumed) == "OK"
    assert await lab.commit("a", 2, **full) == "OK"
    assert await lab.waiting() == [[None, 5]]
    assert (await lab.jobs.results("j", 0), await lab.jobs.dead_letters("j")) == (["r"], ["d"])


@on_server
async def test_the_end_travels_behind_the_last_record_and_ends_the_job(lab: Lab) -> None:
    assert (await lab.jobs.input("j", "b", 10))[1]
    assert (
        await lab.commit("a", 1, outputs=[RecordChunk("b", [[None, 1]])], following=["b"], done=True) == "OK"
    )
    entries, more = await lab.jobs.input("j", "b", 10)
    assert (len(entries), more) == (1, False)
    assert await lab.jobs.state("j") == "RUNNING"
    assert await lab.commit("b", 1, consumed=[entries[0][0]], consumed_records=1, done=True) == "OK"
    assert await lab.jobs.state("j") == "SUCCEEDED"
    assert await lab.commit("b", 1, consumed=[entries[0][0]], consumed_records=1, done=True) == "OVER"
    assert await lab.jobs.end("j", "FAILED", "too late") == "OVER"
    for key in await lab.store.commands.execute("KEYS", f"dt:{lab.jobs.namespace}:job:*"):
        assert await lab.store.commands.execute("PTTL", key) > 0, key


@on_server
async def test_a_job_that_failed_takes_nothing_more(lab: Lab) -> None:
    assert await lab.commit("a", 1, outputs=[RecordChunk("b", [[None, 1]])]) == "OK"
    assert await lab.jobs.end("j", "FAILED", "ValueError: x") == "OK"
    assert await lab.commit("a", 2, outputs=[RecordChunk("b", [[None, 2]])]) == "OVER"
    assert await lab.waiting() == []
    record = await lab.jobs.get("j")
    assert (record.state, record.error) == ("FAILED", "ValueError: x")
    with pytest.raises(RequestNotFoundError, match="no job 'x'"):
        await lab.jobs.get("x")


@on_server
async def test_too_many_dead_letters_are_reported(lab: Lab) -> None:
    assert await lab.commit("a", 1, dead=["d1", "d2"]) == "OK"
    assert await lab.commit("a", 2, dead=["d3"]) == "DEAD"


@on_server
async def test_the_index_forgets_jobs_that_are_gone(lab: Lab) -> None:
    await lab.store.commands.execute("ZADD", lab.keys.jobs, 1, "long-gone")
    await lab.jobs.end("j", "STOPPED")
    assert await lab.jobs.ids() == ["j"]
    await lab.jobs.note_service("gone", "s", {})
    assert await lab.jobs.state("gone") == "GONE"
