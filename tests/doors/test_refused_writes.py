"""Every verb that writes, on a real server that refuses: a clear error or its work done, and all is well afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from kombu.exceptions import OperationalError

from dynamo_tasks.errors import ServerRefusedError, ServerUnavailableError
from dynamo_tasks.protocol.instances import InstanceInfo, Load
from dynamo_tasks.protocol.names import Subject
from dynamo_tasks.store.job_records import Commit
from dynamo_tasks.store.jobs import Jobs
from dynamo_tasks.store.ledger.recovery import Recovery
from dynamo_tasks.store.redis.pubsub import Channels
from dynamo_tasks.store.redis.refusals import PASSING, ReplyError, refusal
from dynamo_tasks.store.registry import Registry, new_lease
from dynamo_tasks.store.topics.topic import Topic
from tests.support.queue import Lab
from tests.support.refusing import REFUSALS, RefusingServer
from tests.support.streams import Owner, Place, eventually, values

KINDS = [kind for kind in REFUSALS if kind != "LOADING"]  # that takes its time: tests/doors/test_refusals.py
INSIDE = re.compile(r"script:|@user|Valkey is|Redis is|127\.0\.0\.1|\b[A-Z]{4,} ")
BROKEN = {"MASTERDOWN", "READONLY"}
"""A connection to a server that is no master any more is given up: the other verbs wait for the next one."""
AT_ONCE = {"submit", "claim", "release"}
Verb = Callable[[], Awaitable[Any]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RefusingServer]:
    with RefusingServer(tmp_path_factory.mktemp("refusing")) as server:
        yield server


async def _verbs(place: Place, owner: Owner) -> dict[str, Verb]:
    """What may be asked for at any time, each on what it needs."""
    store, ns = place.store, place.namespace
    registry, jobs, events = Registry(store), Jobs(store, ns), Topic(store, Channels(store))
    info = InstanceInfo("Worker", "generate", ns, owner.lease, {"celery": "q"})
    queued, ended, lost = [await place.submit() for _ in range(3)]
    running = await owner.claim(await place.submit())
    await owner.claim(lost)
    await jobs.start("j", "lab", b"{}", {"a": 0}, [])

    def fresh(verb: Callable[[str], Awaitable[Any]]) -> Verb:
        return lambda: verb(uuid.uuid4().hex)

    return {
        "submit": lambda: place.ledger.submit(place.new()),
        "claim": lambda: owner.claim(queued),
        "cancel": lambda: place.ledger.cancel(ns, ended),
        "purge": lambda: place.ledger.upkeep.purge(ns, ended),
        "erase": lambda: place.ledger.upkeep.erase(ns),
        "release": lambda: owner.ledger.release(running, retries=0),
        "requeue": lambda: Recovery(store).requeue(ns, lost, owner.lease),
        "take over": lambda: Recovery(store).take_over(ns, new_lease(), "me"),
        "register": lambda: registry.register(ns, owner.lease, [info]),
        "renew": lambda: registry.renew(ns, owner.lease, 2, [info], Load(capacity=1)),
        "deregister": lambda: registry.revoke(ns, new_lease()),
        "publish": lambda: events.publish(Subject(ns, "Worker", "news"), {"a": 1}),
        "job start": fresh(lambda job: jobs.start(job, "lab", b"{}", {"a": 0}, [place.new()])),
        "job commit": lambda: jobs.commit(
            "j", running.id, (owner.lease, running.epoch), Commit(task="a", number=1), most_waiting=5, most_dead=2
        ),
        "job end": lambda: jobs.end("j", "STOPPED"),
        "sweep": lambda: place.ledger.upkeep.due(ns),
        "admit": lambda: place.ledger.upkeep.admit(ns),
    }  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_verb_of_the_store(kind: str, server: RefusingServer) -> None:
    async def body() -> None:
        async with Place(server.url) as place:
            owner = await place.owner()
            verbs = await _verbs(place, owner)
            refused = set()
            with REFUSALS[kind](server):
                for name, verb in verbs.items():
                    if kind in BROKEN and name not in AT_ONCE:
                        continue
                    error = await _error(verb)
                    if error is not None:
                        refused.add(name)
                        assert not INSIDE.search(error.message), (name, error)
            assert refused >= AT_ONCE
            assert kind in BROKEN or refused >= {"publish", "job start"}
            await place.store.commands.wire()
            for name in sorted(refused):
                await eventually(lambda verb=verbs[name]: _works(verb), what=name)

    asyncio.run(body())


async def _error(verb: Verb) -> ServerUnavailableError | None:
    """The error of a verb: one that says 'later', or none."""
    try:
        async with asyncio.timeout(5):
            await verb()
    except ServerUnavailableError as exc:
        return exc
    return None


async def _works(verb: Verb) -> bool:
    return await _error(verb) is None


@pytest.mark.parametrize("kind", KINDS)
def test_the_writer_waits_and_its_end_too(kind: str, server: RefusingServer) -> None:
    async def body() -> None:
        async with Place(server.url) as place:
            owner = await place.owner()
            log = await owner.run(await place.submit())
            await owner.write(log, "before")
            with REFUSALS[kind](server):
                log.append("meanwhile")
                end = asyncio.ensure_future(owner.finish(log))
                await asyncio.sleep(0.3)  # the length of the fault
            async with asyncio.timeout(20):
                await end
            assert log.dead is None
            assert values(await place.log(log.attempt.id)) == ["before", "meanwhile"]

    asyncio.run(body())


SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("MISCONF", "BUSY")]
"""A new connection of kombu's begins with a PING, which is refused too, and tried for some seconds."""


@pytest.mark.parametrize("kind", ["OOM", "NOREPLICAS", *SLOW])
def test_publishing_as_celery_does(kind: str, server: RefusingServer) -> None:
    """Celery's own error, of a call of an endpoint and of a plain task, at once; what it says has no payload."""
    lab = Lab(server, f"refused-{kind.lower()}")
    lab.app.conf.task_publish_retry = False
    plain = lab.app.signature("some.task", args=("secret",), queue="dynamo-tasks")
    plain.delay()  # a connection is there
    with REFUSALS[kind](server):
        for call in (lambda: lab.call("count", {"n": 1, "secret": "secret"}), plain.delay):
            with pytest.raises(OperationalError) as caught:
                call()
            assert "secret" not in str(caught.value)
            assert not INSIDE.search(str(caught.value)), caught.value
    lab.call("count", {"n": 1})
    plain.delay()
    assert (lab.length(), lab.redis.llen("dynamo-tasks")) == (1, 2)
    lab.redis.delete("dynamo-tasks")
    lab.close()


def test_the_table_is_whole() -> None:
    """What passes says so and when to come again; what does not is no reason to wait; nobody sees Redis' own words."""
    for word in PASSING:
        error = refusal(f"{word} something. script: abc, on @user_script:379.")
        assert isinstance(error, ServerRefusedError)
        assert error.retry_after
        assert "script:" not in error.message
    for text in (
        "NOPERM User x",
        "CROSSSLOT Keys",
        "MOVED 1 a:1",
        "WRONGTYPE Operation",
        "ERR syntax",
        "NOAUTH A",
        "x",
    ):
        with pytest.raises(ReplyError) as caught:
            raise refusal(text)
        assert caught.value.http_status == 500
        assert text not in caught.value.message


def test_a_transaction_says_what_spoilt_it() -> None:
    with contextlib.suppress(ReplyError):
        assert isinstance(
            refusal("EXECABORT Transaction discarded because of: OOM command"), ServerRefusedError
        )
