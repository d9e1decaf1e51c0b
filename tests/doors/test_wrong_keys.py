"""Keys of another type than ours should be, or that hold garbage: an error that says so, no hang and no dead worker."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from dynamo_tasks.store.ledger.fields import Field
from tests.support.processes import ROOT, Frontend, Worker, environment, together, until
from tests.support.server import RedisServer

BODY = {"model": "echo", "prompt": "hello", "max_tokens": 5}
BAD = b"\xff\xfe["
PUT: dict[str, Callable[[redis.Redis, str], Any]] = {
    "string": lambda client, key: client.set(key, BAD),
    "list": lambda client, key: client.rpush(key, BAD),
    "hash": lambda client, key: client.hset(key, BAD, BAD),
    "set": lambda client, key: client.sadd(key, BAD),
    "zset": lambda client, key: client.zadd(key, {BAD: 1}),
    "stream": lambda client, key: client.xadd(key, {BAD: BAD}),
}
"""Puts a value of a type, and nothing of ours in it."""


@dataclass
class Site:
    """A server, a worker and a frontend."""

    client: redis.Redis
    worker: Worker
    frontend: Frontend

    @property
    def lease(self) -> str:
        """Of the worker."""
        [key] = [key for key in self.client.keys("dt:dynamo:lease:*") if b"@" not in key]
        return key.decode().rpartition(":")[2]

    def ask(self) -> tuple[int, Any]:
        """Status and answer of a completion; within 10 s."""
        status, _, answer = self.frontend.request("POST", "/v1/completions", BODY)
        return status, answer

    @contextlib.contextmanager
    def wrong(self, key: str, kind: str) -> Iterator[None]:
        """Another value in the place of a key, for a while."""
        kept, left = self.client.dump(key), max(0, self.client.pttl(key))
        self.client.delete(key)
        PUT[kind](self.client, key)
        try:
            yield
        finally:
            self.client.delete(key)
            if kept is not None:
                self.client.restore(key, left, kept, replace=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with (
        RedisServer(tmp_path_factory.mktemp("keys")) as server,
        together(
            Worker(server.url, name="w", settings=("Worker.token_delay_ms=2",)), Frontend(server.url)
        ) as (
            worker,
            frontend,
        ),
        redis.Redis(port=server.port) as client,
    ):
        yield Site(client, worker, frontend)


KEYS = [
    "dynamo|Worker", "dynamo|Worker\x06\x163", "dynamo-tasks", "dt:@namespaces", "_kombu.binding.celery.pidbox",
    "_kombu.binding.reply.celery.pidbox", "_kombu.binding.dynamo|Worker", "_kombu.binding.dynamo-tasks",
    *(f"dt:dynamo:{name}" for name in (
        "queued", "timers", "leases", "instances", "clients", "traffic", "dead", "jobs", "owned:{lease}",
        "load:{lease}",         "queues:{lease}", "lease:{lease}", "running:Worker", "waiting:Worker", "pace:Worker",
        "inst:Worker:generate:{lease}", "inst:Worker:embed:{lease}",
    )),
    "dt:@unacked:{lease}", "dt:@unacked_index:{lease}",
]  # fmt: skip
QUICK = {("dynamo|Worker\x06\x163", "string"), ("dt:dynamo:leases", "string"), ("dt:dynamo:timers", "hash")}
CASES = [(key, kind) for key in KEYS for kind in PUT]


@pytest.mark.parametrize(
    ("key", "kind"),
    [pytest.param(*one, marks=[] if one in QUICK else [pytest.mark.slow]) for one in CASES],
)
def test_a_wrong_key_is_an_error_and_passes_with_it(site: Site, key: str, kind: str) -> None:
    key = key.format(lease=site.lease)
    assert site.ask()[0] == 200
    before = site.worker.pid
    with site.wrong(key, kind):
        until(lambda: site.ask(), 30)  # whatever the status is, there is an answer
        status, answer = site.ask()
        assert status == 200 or answer["error"]["message"], answer
        assert "WRONGTYPE" not in str(answer)
    until(lambda: site.ask()[0] == 200, 30, lambda: site.worker.output[-2000:])
    assert (site.worker.alive, site.frontend.alive, site.worker.pid) == (True, True, before)


def test_one_wrong_stream_keeps_no_other_from_being_written(site: Site) -> None:
    """Streams share one writer, and one reader."""
    body = BODY | {"prompt": "go on " * 200, "max_tokens": 800, "stream": True}
    streams = [site.frontend.events("POST", "/v1/completions", body) for _ in range(2)]
    firsts = [next(stream) for stream in streams]
    [bad, good] = [one[1].split('"id":"')[1].split('"')[0].removeprefix("cmpl-") for one in firsts]
    site.client.delete(f"dt:dynamo:log:{bad}")
    site.client.set(f"dt:dynamo:log:{bad}", "x")
    rest = [data for _, data in streams[1]]
    assert rest[-1] == "[DONE]", rest[-3:]
    assert "error" not in rest[-2]
    ended = [data for _, data in streams[0]]
    assert "error" in ended[-1] + ended[-2], ended[-3:]
    assert site.ask()[0] == 200
    site.client.delete(f"dt:dynamo:log:{bad}")
    assert site.frontend.get(f"/v1/requests/{good}")[1]["status"] == "succeeded"


def test_what_nobody_can_read_hides_nothing_else(site: Site) -> None:
    """Namespaces, leases, instances and timers of which some are garbage; what is due of the others comes."""
    client = site.client
    client.sadd("dt:@namespaces", b"\xff", "no name!", "evil", "")
    for key in ("timers", "leases", "clients", "instances", "queued"):
        client.set(f"dt:evil:{key}", BAD)
    client.sadd("dt:dynamo:leases", b"\xff", "zz", "")
    client.sadd("dt:dynamo:instances", b"\xff", "x", "a:b:c:d", "Worker:generate:zz")
    client.set("dt:dynamo:inst:Worker:generate:zz", BAD)
    client.sadd("dt:dynamo:clients", b"\xff", "x")
    client.zadd("dt:dynamo:timers", {b"\xff": 1, "m:": 1, "d:nothing": 1, "a:wrong": 1})
    client.set("dt:dynamo:req:wrong", "x")
    # Still queued when its time is over: the sweeper ends it, whatever else is due.
    body = BODY | {"timeout": 0.5, "model": "echo"}
    site.worker.signal(19)  # SIGSTOP: nobody takes it
    try:
        status, _, answer = site.frontend.request("POST", "/v1/completions", body)
    finally:
        site.worker.signal(18)
    assert status in (504, 503), answer
    until(lambda: site.ask()[0] == 200, 40, lambda: site.worker.output[-2000:])
    for key in client.scan_iter("dt:evil:*"):
        client.delete(key)
    client.srem("dt:@namespaces", b"\xff", "no name!", "evil", "")


STARTS = [
    ["_kombu.binding.dynamo-tasks", "_kombu.binding_permanent.dynamo-tasks"],
    ["dynamo|Worker"], ["dt:dynamo:instances"], ["dt:dynamo:leases"], ["dt:@namespaces"], ["dt:dynamo:traffic"],
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("keys", STARTS, ids=lambda keys: keys[0])
def test_a_worker_starts_as_soon_as_the_wrong_key_has_gone(
    keys: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    with (
        RedisServer(tmp_path_factory.mktemp("start")) as server,
        redis.Redis(port=server.port) as client,
    ):
        for key in keys:
            client.set(key, "x")
        with Worker(server.url, name="w", wait=False) as worker:
            until(lambda: "WRONGTYPE" in worker.output or not worker.alive, 60, lambda: worker.output)
            assert worker.alive, worker.output[-3000:]
            client.delete(*keys)
            worker.wait_ready()


@pytest.mark.slow
def test_a_dead_worker_is_succeeded_amid_garbage(tmp_path_factory: pytest.TempPathFactory) -> None:
    paced = ("Worker.engine=mocker", "Worker.engine_args.token_delay_ms=20")
    with (
        RedisServer(tmp_path_factory.mktemp("dead")) as server,
        redis.Redis(port=server.port) as client,
        together(Worker(server.url, name="a", settings=paced), Frontend(server.url)) as (first, frontend),
    ):
        stream = frontend.events(
            "POST", "/v1/completions", BODY | {"model": "mocker", "max_tokens": 200, "stream": True}
        )
        next(stream)
        [lease] = [key.decode().rpartition(":")[2] for key in client.keys("dt:dynamo:owned:*")]
        client.sadd(f"dt:dynamo:owned:{lease}", b"\xff", "nothing", "wrong")
        client.set("dt:dynamo:req:wrong", "x")
        client.sadd(f"dt:dynamo:queues:{lease}", b"\xff", "x", "a:b:c:d", "no name!:x")
        client.hset(
            f"dt:@unacked:{lease}",
            mapping={"1": b"\xff", "2": "[]", "3": "[1, 2, 3]", "4": '[{}, "", "plain"]'},
        )
        client.zadd(f"dt:@unacked_index:{lease}", {"1": 1, "2": 2, "3": 3, "4": 4, "5": 5})
        first.kill()
        with Worker(server.url, name="b", settings=paced) as second:
            rest = [data for _, data in stream]
            assert rest[-1] == "[DONE]", rest[-2:]
            assert "length" in rest[-2]
            assert second.alive


def _command(server: RedisServer, *words: str) -> tuple[int, str]:
    argv = [sys.executable, "-m", "dynamo_tasks", *words]
    done = subprocess.run(
        argv, env=environment(server.url), cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_commands_show_what_can_be_read(tmp_path_factory: pytest.TempPathFactory) -> None:
    with RedisServer(tmp_path_factory.mktemp("cli")) as server, redis.Redis(port=server.port) as client:
        client.sadd("dt:@namespaces", "dynamo", b"\xff", "no name!")
        for index in ("jobs", "dead"):
            client.zadd(f"dt:dynamo:{index}", {"x": 1, b"\xff": 2, "y": 3})
        client.hset("dt:dynamo:job:x", "a", "b")
        client.hset("dt:dynamo:req:x", Field.STATE, "nope")
        client.set("dt:dynamo:job:y", "x")
        client.set("dt:dynamo:req:y", "x")
        for words in (["status", "--json"], ["dead", "list"]):
            code, output = _command(server, *words)
            assert (code, "Traceback" in output) == (0, False), output
        for words in (["tail", "x"], ["tail", "y"], ["dead", "show", "x"]):
            code, output = _command(server, *words)
            assert (code, output.splitlines()[-1][:6]) == (2, "Error:"), output
