"""At rest nothing is left: all keys of the server before and after lives of workers, frontends and clients."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import redis

from tests.support.processes import ROOT, Frontend, Worker, environment, together, until
from tests.support.server import RedisServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FIXED = re.compile(
    r"dt:@namespaces|dt:door:(queued|clients|instances|leases|timers|dead|traffic|lines)"
    r"|dt:\w+:(running|waiting):\w+|dt:\w+:(instances|leases|clients|queued|timers|traffic)"
    r"|_kombu\.binding(_permanent)?\.(dynamo-tasks|door\|Caller|dynamo\|Worker|celery\.pidbox|celeryev|"
    r"reply\.celery\.pidbox)|_kombu\.binding_deadlines"
)
"""Keys without a TTL whose number does not grow with lives: what is there, and what kombu knows of shared queues."""
LIVES = 10
"""Of workers that end, and as many of workers that are killed."""


def keys(server: RedisServer) -> dict[str, int]:
    """All keys and their TTL in seconds; -1 for none."""
    with redis.Redis(port=server.port, decode_responses=True) as client:
        return {key: int(client.ttl(key)) for key in client.scan_iter()}


def work(url: str) -> None:
    """Requests of all kinds by a client process."""
    env = environment(url, DYNAMO_GRAPH="tests.support.door_calls:Caller")
    script = (
        "import tests.support.door_calls as d; [d.outcome(way) for way in d.WAYS if 'revoked' not in way]"
    )
    done = subprocess.run([sys.executable, "-c", script], env=env, cwd=ROOT, capture_output=True, timeout=200)
    assert done.returncode == 0, done.stderr


def live(url: str, *, graceful: bool, works: bool) -> None:
    worker = Worker(
        url, "-E", service="tests.support.door_calls:Caller", name=f"life{time.monotonic_ns()}", wait=False
    )
    mocker = Worker(url, settings=("Worker.engine=mocker",), name=f"llm{time.monotonic_ns()}", wait=False)
    frontend = Frontend(url)
    with together(worker, mocker, frontend):
        frontend.request("POST", "/v1/completions", {"model": "mocker", "prompt": "hi", "max_tokens": 3})
        if works:
            work(url)
        for process in (worker, mocker, frontend):
            process.terminate(60) if graceful else process.kill()


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, int], dict[str, int]]]:
    """Keys after one life of each kind, and after all of them, once observers had time to clear up."""
    with RedisServer(tmp_path_factory.mktemp("rest")) as server:
        for graceful in (True, False):
            live(server.url, graceful=graceful, works=True)
        settle(server)
        before = keys(server)
        for number in range(LIVES):
            live(server.url, graceful=number % 2 == 0, works=number < 2)
        settle(server)
        yield before, keys(server)


def settle(server: RedisServer) -> None:
    """The dead are buried by the living."""
    worker = Worker(server.url, service="tests.support.door_calls:Caller", name="last")
    with worker, redis.Redis(port=server.port, decode_responses=True) as client:
        until(lambda: client.scard("dt:door:leases") <= 1, 60, "the dead to be buried")
        until(lambda: client.scard("dt:dynamo:leases") == 0, 60, "the dead of another namespace")
        worker.terminate(60)


def test_no_key_without_a_time_is_left_of_a_life(left: tuple[dict[str, int], dict[str, int]]) -> None:
    _, after = left
    strays = sorted(key for key, ttl in after.items() if ttl < 0 and not FIXED.fullmatch(key))
    assert strays == []


def test_what_stays_does_not_grow(left: tuple[dict[str, int], dict[str, int]]) -> None:
    before, after = ({key for key, ttl in one.items() if ttl < 0} for one in left)
    assert after - before == set()
