"""Anybody who reaches Redis publishes anything anywhere, and pushes anything: workers and frontends stay, and serve."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import redis

from dynamo_tasks.store.ledger.fields import Field
from tests.support.hostile import BOMBS, CHANNEL_COMMANDS, COMMANDS, GARBAGE, bomb, command
from tests.support.processes import Frontend, Worker, together, until
from tests.support.server import RedisServer

PIDBOX = "/0.celery.pidbox"
ROOM = 150
"""MiB that a process may grow by while it refuses what would be gigabytes."""


@dataclass
class Site:
    """A server, a worker and a frontend."""

    client: redis.Redis
    worker: Worker
    frontend: Frontend

    def serves(self) -> None:
        """A completion over HTTP, and an answer to remote control."""
        body = {"model": "echo", "prompt": "hello", "max_tokens": 5}
        status, _, answer = self.frontend.request("POST", "/v1/completions", body)
        assert (status, answer["choices"][0]["text"]) == (200, "hello"), answer
        assert self.worker.alive, self.worker.output[-3000:]
        assert self.pong(), self.worker.output[-3000:]

    def pong(self) -> bool:
        """Whether the worker answers a ping, as Celery sends it."""
        oid = str(uuid.uuid4())
        queue = f"{oid}.reply.celery.pidbox"
        key = "_kombu.binding.reply.celery.pidbox"
        row = f"{oid}\x06\x16\x06\x16{queue}"
        self.client.sadd(key, row)
        to = {"exchange": "reply.celery.pidbox", "routing_key": oid}
        self.client.publish(
            PIDBOX, command({"method": "ping", "arguments": {}, "ticket": "t", "reply_to": to})
        )
        answer = self.client.brpop([queue], timeout=30)
        self.client.srem(key, row)
        return answer is not None

    def lines(self, text: str) -> int:
        """How often the worker's log has it."""
        return self.worker.output.count(text)

    def memory(self) -> int:
        """MiB of the worker, at its peak."""
        with open(f"/proc/{self.worker.pid}/status") as status:
            [line] = [line for line in status if line.startswith("VmHWM")]
        return int(line.split()[1]) >> 10


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with (
        RedisServer(tmp_path_factory.mktemp("hostile")) as server,
        together(Worker(server.url, name="w"), Frontend(server.url)) as (worker, frontend),
        redis.Redis(port=server.port, socket_timeout=60) as client,
    ):
        yield Site(client, worker, frontend)


def channels_of(site: Site) -> list[str]:
    return sorted(channel.decode() for channel in site.client.pubsub_channels())


def test_every_channel_that_anybody_listens_to_takes_garbage(site: Site) -> None:
    listened = channels_of(site)
    assert [one.split(":")[1] for one in listened].count("@client") == 2, listened
    assert {one.split(":")[2] for one in listened} >= {"alive", "registry"}, listened
    for channel in [PIDBOX, *listened]:
        for payload in GARBAGE + CHANNEL_COMMANDS:
            site.client.publish(channel, payload)
        site.serves()
    assert channels_of(site) == listened  # the same connections as before
    assert site.lines("store.connection_lost") == 0, site.worker.output[-3000:]
    assert site.lines("store.unreadable") >= 2
    assert site.lines("store.unreadable") < len(GARBAGE) * len(listened)  # told, not shouted


def test_no_command_ends_a_worker(site: Site) -> None:
    for payload in COMMANDS:
        site.client.publish(PIDBOX, payload)
    site.serves()
    assert site.lines("Unrecoverable") == 0, site.worker.output[-3000:]


ELSEWHERE = ["dynamo|Worker", "dt:dynamo:stolen", PIDBOX, "celeryev", "", "dt:other:answers:0:abc"]


@pytest.mark.parametrize("where", ELSEWHERE)
def test_a_worker_answers_to_those_who_wait_and_to_nobody_else(site: Site, where: str) -> None:
    alive = next(one for one in channels_of(site) if ":alive:" in one)
    with site.client.pubsub(ignore_subscribe_messages=True) as heard:
        heard.subscribe(where or "empty")
        heard.get_message(timeout=5)
        site.client.publish(alive, f"control wake {where} {{}}")
        site.client.publish(alive, f"stats dynamo|Worker 0 {where}")
        for exchange in ("", "reply.celery.pidbox", "celery.pidbox", "celeryev"):
            to = {"exchange": exchange, "routing_key": where}
            ping = {"method": "ping", "arguments": {}, "ticket": "t", "reply_to": to}
            site.client.publish(PIDBOX, command(ping))
        site.serves()
        while (message := heard.get_message(timeout=0.05)) is not None:
            assert b"reply_to" in message["data"], (
                message
            )  # what is asked here, where the channel is that of questions
    if where:
        assert site.client.type(where) == b"none"


def test_pushes_go_to_clients_and_nowhere_else(site: Site) -> None:
    """A record that names another channel as its reader: neither the worker nor a script publishes there."""
    with site.client.pubsub(ignore_subscribe_messages=True) as heard:
        heard.subscribe("news")
        heard.get_message(timeout=5)
        body = {"model": "echo", "prompt": "hello " * 5000, "max_tokens": 20_000, "stream": True}
        stream = site.frontend.events("POST", "/v1/completions", body)
        _, data = next(stream)
        request = json.loads(data)["id"].removeprefix("cmpl-")
        site.client.hset(f"dt:dynamo:req:{request}", Field.READERS, "news")
        stream.close()  # type: ignore[attr-defined]
        site.frontend.request("DELETE", f"/v1/requests/{request}")
        site.serves()
        assert heard.get_message(timeout=0.2) is None


QUICK = [("queue", "application/x-gzip"), ("queue", "zlib_codec")]
DOORS = [(door, name) for door in ("queue", "plain queue", "fanout") for name in BOMBS]


@pytest.mark.parametrize(
    ("door", "name"),
    [pytest.param(*one, marks=[] if one in QUICK else [pytest.mark.slow]) for one in DOORS],
)
def test_a_message_stays_as_small_as_it_was_sent(site: Site, door: str, name: str) -> None:
    message = bomb(name)
    before = site.memory()
    for task in ("dynamo.Worker.generate", "nothing"):
        headers = {"task": task, "id": str(uuid.uuid4()), "lang": "py", **message["headers"]}
        data = json.dumps(message | {"headers": headers})
        if door == "fanout":
            site.client.publish(PIDBOX, data)
        else:
            site.client.lpush("dynamo|Worker" if door == "queue" else "dynamo-tasks", data)
    site.serves()
    assert site.memory() < before + ROOM


def test_what_is_refused_is_counted(site: Site) -> None:
    """In the numbers of the process that refused it."""
    reader = [one for one in channels_of(site) if ":@client:" in one]
    for channel in reader:
        site.client.publish(channel, b"garbage")
    wanted = 'input_refused_total{where="pubsub"}'
    until(
        lambda: wanted in str(site.frontend.get("/metrics")[1]),
        20,
        lambda: str(site.frontend.get("/metrics")),
    )
