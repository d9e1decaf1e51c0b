"""Whatever becomes of a request, the place that its API key had for it is free again, and not before."""

from __future__ import annotations

import json
import signal
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from dynamo_tasks.store.ledger.fields import Field
from tests.support.processes import Frontend, Worker, until
from tests.support.readers import MODEL
from tests.support.server import RedisServer

pytestmark = pytest.mark.slow

PATH = "/v1/completions"
WORKER = (
    "Worker.engine=mocker", "Worker.engine_args.token_delay_ms=20", "Worker.engine_args.max_num_seqs=2",
    "Worker.ServiceArgs.traffic.max_queue=3",
)  # fmt: skip
ASK: dict[str, Any] = {"model": MODEL, "prompt": "hi", "max_tokens": 2}
LONG = {**ASK, "max_tokens": 1500, "background": True}
FREE = {"Authorization": "Bearer free"}


@dataclass
class House:
    """A server, workers and frontends; the tests end some of them."""

    server: RedisServer
    stack: ExitStack

    def __post_init__(self) -> None:
        self.admin = redis.Redis(port=self.server.port, decode_responses=True)
        self.worker = self.employ()
        self.one, self.other = [self.stack.enter_context(self.frontend()) for _ in range(2)]

    def employ(self) -> Worker:
        return self.stack.enter_context(Worker(self.server.url, settings=WORKER, name=uuid.uuid4().hex[:6]))

    def frontend(self) -> Frontend:
        keys = ",".join(f"{{key: {name}, concurrent_requests: 1}}" for name in (*EXITS, "slow", "patient"))
        return Frontend(
            self.server.url,
            settings=(f"Frontend.api_keys=[free,{keys}]", "Frontend.body_limit=4096"),
        )

    def ask(self, name: str, body: Any, **headers: str) -> tuple[int, str, Any]:
        """Ask with a key of that name: status, id, answer."""
        status, found, answer = self.one.request(
            "POST", PATH, body, {"Authorization": f"Bearer {name}", **headers}
        )
        return status, found.get("x-request-id", ""), answer

    def begin(self, name: str, **more: Any) -> str:
        """A long request that takes the key's only place."""
        status, request_id, answer = self.ask(name, {**LONG, **more})
        assert status == 202, answer
        assert self.ask(name, ASK)[0] == 429
        return request_id

    def delete(self, name: str, request_id: str, query: str = "") -> None:
        found = self.one.request(
            "DELETE", f"/v1/requests/{request_id}{query}", headers={"Authorization": f"Bearer {name}"}
        )
        assert found[0] == 200

    def state(self, request_id: str) -> str | None:
        return self.admin.hget(f"dt:dynamo:req:{request_id}", Field.STATE)

    def reaches(self, request_id: str, state: str) -> None:
        until(lambda: self.state(request_id) == state, 40, lambda: f"{state}, is {self.state(request_id)}")

    @contextmanager
    def crowded(self) -> Iterator[None]:
        """As many run and wait as may."""
        statuses, ids = [], []
        while not statuses or statuses[-1] == 202:
            status, request_id, _ = self.ask("free", LONG)
            statuses.append(status)
            ids.append(request_id)
        assert statuses[-1] == 429
        yield
        for request_id in ids[:-1]:
            self.delete("free", request_id)


def finished(house: House) -> None:
    assert house.ask("finished", ASK)[0] == 200


def failed(house: House) -> None:
    request_id = house.begin("failed", timeout=1.5)
    house.reaches(request_id, "FAILED")


def cancelled(house: House) -> None:
    house.delete("cancelled", house.begin("cancelled"))


def purged(house: House) -> None:
    house.delete("purged", house.begin("purged"), "?purge=true")


def purged_in_the_queue(house: House) -> None:
    waiting = [house.ask("free", LONG)[1] for _ in range(2)]
    request_id = house.begin("purged_in_the_queue")
    assert house.state(request_id) == "QUEUED"
    house.delete("purged_in_the_queue", request_id, "?purge=true")
    for one in waiting:
        house.delete("free", one)


def expired(house: House) -> None:
    house.worker.signal(signal.SIGSTOP)
    request_id = house.begin("expired", timeout=1)
    house.reaches(request_id, "EXPIRED")
    house.worker.signal(signal.SIGCONT)


def not_valid(house: House) -> None:
    for body in (b"{", b"{}", {**ASK, "max_tokens": -1}, {**ASK, "retention": -1}):
        assert house.ask("not_valid", body)[0] == 400
    assert house.ask("not_valid", ASK, **{"X-Request-Timeout": "soon"})[0] == 400


def too_large(house: House) -> None:
    assert house.ask("too_large", {**ASK, "prompt": "a" * 5000})[0] == 413


def unknown_model(house: House) -> None:
    assert house.ask("unknown_model", {**ASK, "model": "none"})[0] == 404


def queue_full(house: House) -> None:
    with house.crowded():
        # There is one place more, for a tenant of whom nobody waits.
        others = [house.ask(name, LONG) for name in ("finished", "queue_full")]
        assert [status for status, _, _ in others] == [202, 429]
        assert others[1][2]["error"]["code"] == "queue_full"
        house.delete("finished", others[0][1])


def joined(house: House) -> None:
    for _ in range(4):
        assert house.ask("joined", ASK, **{"Idempotency-Key": "again"})[0] == 200
    assert house.ask("joined", {**ASK, "prompt": "other"}, **{"Idempotency-Key": "again"})[0] == 409


def frontend_killed(house: House) -> None:
    stream = house.other.events(
        "POST",
        PATH,
        {**LONG, "background": False, "stream": True},
        {"Authorization": "Bearer frontend_killed"},
    )
    next(stream)
    assert house.ask("frontend_killed", ASK)[0] == 429
    house.other.kill()


def frontend_killed_before_its_submit(house: House) -> None:
    """What a frontend took that died before it submitted anything."""
    script = "redis.call('ZADD', KEYS[1], redis.call('TIME')[1] * 1000, ARGV[1])"
    owner = house.admin.hget(
        f"dt:dynamo:req:{house.ask('frontend_killed_before_its_submit', ASK)[1]}", Field.OWNER_KEY
    )
    house.admin.eval(script, 1, f"dt:dynamo:open:{owner}", uuid.uuid4().hex)
    assert house.ask("frontend_killed_before_its_submit", ASK)[0] == 429


def worker_killed(house: House) -> None:
    request_id = house.begin("worker_killed", max_tokens=100)
    house.reaches(request_id, "RUNNING")
    house.worker.kill()
    assert house.ask("worker_killed", ASK)[0] in (429, 503)
    house.worker = house.employ()
    house.reaches(request_id, "SUCCEEDED")


def no_worker(house: House) -> None:
    house.worker.kill()
    until(lambda: house.ask("free", {**ASK, "background": True})[0] == 503, 40, "no instance")
    assert house.ask("no_worker", ASK)[0] == 503
    house.worker = house.employ()


def redis_restarted(house: House) -> None:
    request_id = house.begin("redis_restarted", max_tokens=200)
    house.reaches(request_id, "RUNNING")
    house.server.kill()
    house.server.start()
    until(lambda: house.ask("free", ASK)[0] == 200, 40, "the server is there again")
    house.reaches(request_id, "SUCCEEDED")


EXITS: dict[str, Callable[[House], None]] = {
    one.__name__: one
    for one in (
        finished, failed, cancelled, purged, purged_in_the_queue, expired, not_valid, too_large, unknown_model,
        queue_full, joined, frontend_killed, frontend_killed_before_its_submit, worker_killed, no_worker,
        redis_restarted,
    )
}  # fmt: skip


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with ExitStack() as stack:
        server = stack.enter_context(RedisServer(tmp_path_factory.mktemp("reservations")))
        yield House(server, stack)


@pytest.mark.parametrize("way", EXITS)
def test_a_place_is_free_again(house: House, way: str) -> None:
    EXITS[way](house)
    until(lambda: house.ask(way, ASK)[0] == 200, 30, "the key has its place again")
    assert house.ask(way, ASK)[0] == 200


def test_a_place_is_no_longer_than_its_body_takes(house: House) -> None:
    """Who sends a body for longer than a place is kept for him takes another one, if there is one."""
    body = json.dumps(LONG).encode()
    head = (
        f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer slow\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", house.one.port), timeout=60) as slow:
        slow.sendall(head.encode() + body[:1])
        began = time.monotonic()
        until(lambda: house.ask("slow", ASK)[0] == 429, 10, "it has the place")
        until(lambda: house.ask("slow", LONG)[0] == 202, 30, "another one has it")
        assert time.monotonic() - began > 9
        slow.sendall(body[1:])
        assert b" 429 " in slow.recv(4096)
    with socket.create_connection(("127.0.0.1", house.one.port), timeout=60) as patient:
        patient.sendall(head.replace("slow", "patient").encode() + body[:1])
        began = time.monotonic()
        until(lambda: time.monotonic() - began > 6, 30, "longer than it is sure of its place")
        patient.sendall(body[1:])
        assert b" 202 " in patient.recv(4096)
    assert house.ask("patient", ASK)[0] == 429
