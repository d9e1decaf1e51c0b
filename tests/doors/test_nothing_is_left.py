"""At rest nothing is left: all keys of the server, and what is in them, behind lives of workers, frontends, clients."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from tests.support.processes import ROOT, Frontend, Worker, environment, together, until
from tests.support.server import RedisServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CALLER = "tests.support.door_calls:Caller"
SHARED = ("dynamo-tasks", "door|Caller", "dynamo|Worker")
STAYS: dict[str, Any] = {
    "dt:@namespaces": {"door", "dynamo"},
    **{
        f"_kombu.binding{kind}.{queue}": {f"{queue}\x06\x16\x06\x16{queue}"}
        for kind in ("", "_permanent")
        for queue in SHARED
    },
}
"""What is known of names that processes share: it does not grow with their lives."""
ROUNDS = 5
"""In each, two workers and a frontend end, and as many are killed: twenty lives of workers."""
READ = {
    "string": lambda client, key: client.get(key),
    "set": lambda client, key: client.smembers(key),
    "hash": lambda client, key: client.hgetall(key),
    "zset": lambda client, key: client.zrange(key, 0, -1, withscores=True),
    "list": lambda client, key: client.lrange(key, 0, -1),
    "stream": lambda client, key: client.xlen(key),
}


def kept(server: RedisServer) -> dict[str, Any]:
    """All that does not go by itself."""
    with redis.Redis(port=server.port, decode_responses=True, encoding_errors="replace") as client:
        found = [key for key in client.scan_iter() if client.ttl(key) == -1]
        return {key: READ[client.type(key)](client, key) for key in found}


def work(url: str) -> None:
    """Requests of all kinds by a client process."""
    env = environment(url, DYNAMO_GRAPH=CALLER)
    script = (
        "import tests.support.door_calls as d; [d.outcome(way) for way in d.WAYS if 'revoked' not in way]"
    )
    done = subprocess.run([sys.executable, "-c", script], env=env, cwd=ROOT, capture_output=True, timeout=200)
    assert done.returncode == 0, done.stderr


def live(url: str, *, graceful: bool, works: bool) -> None:
    name = f"life{time.monotonic_ns()}"
    worker = Worker(url, "-E", service=CALLER, name=name, wait=False)
    mocker = Worker(url, settings=("Worker.engine=mocker",), name=f"llm-{name}", wait=False)
    frontend = Frontend(url)
    with together(worker, mocker, frontend):
        frontend.request("POST", "/v1/completions", {"model": "mocker", "prompt": "hi", "max_tokens": 3})
        if works:
            work(url)
        for process in (worker, mocker, frontend):
            process.terminate(60) if graceful else process.kill()


def live_side_by_side(url: str, *, works: bool) -> None:
    with ThreadPoolExecutor() as pool:
        lives = [pool.submit(live, url, graceful=graceful, works=works) for graceful in (True, False)]
        for one in lives:
            one.result()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("rest")) as server:
        yield server


def test_no_key_without_a_time_is_left_of_a_life(server: RedisServer) -> None:
    """Nobody comes behind them to clear up."""
    live(server.url, graceful=True, works=False)
    assert {key: value for key, value in kept(server).items() if STAYS.get(key) != value} == {}


def test_what_stays_does_not_grow(server: RedisServer) -> None:
    for number in range(ROUNDS):
        live_side_by_side(server.url, works=number == 0)
    with (
        Worker(server.url, service=CALLER, name="last") as worker,
        redis.Redis(port=server.port, decode_responses=True) as client,
    ):
        # The dead are reaped by the living.
        until(lambda: client.scard("dt:door:leases") == 1, 60, "the dead of its namespace")
        others = ("dt:dynamo:leases", "dt:dynamo:clients", "dt:door:clients")
        until(lambda: not client.exists(*others), 60, "the dead of another one, and the readers")
        worker.terminate(60)
    assert {key: value for key, value in kept(server).items() if STAYS.get(key) != value} == {}
