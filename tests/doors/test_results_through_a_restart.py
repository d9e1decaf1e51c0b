"""Results of chains, chords and groups, waited for while the server is killed and starts again on its AOF."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.support.processes import ROOT, Worker, environment
from tests.support.server import RedisServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SCRIPT = """
import json, sys, threading
from celery import chain, chord, group
from tests.support.door_calls import Caller
double, slow = Caller.double, Caller.slow
made = {
    "chord": lambda: chord([slow.s(1), slow.s(2)], Caller.count.si(3)).delay(),
    "group": lambda: group(slow.s(1), slow.s(2)).delay(),
    "chain": lambda: chain(slow.s(2), Caller.count.s()).delay(),
    "iterate": lambda: chain(slow.s(2), Caller.count.s()).delay(),
    "collect": lambda: chain(slow.s(2), Caller.count.s()).delay(),
    "join": lambda: group(slow.s(1), slow.s(2)).delay(),
    "join_native": lambda: group(slow.s(1), slow.s(2)).delay(),
    "plain": lambda: slow.delay(1),
}
waits = {
    "iterate": list,
    "collect": lambda r: [v for _, v in r.parent.collect()] if r.get(timeout=100) is not None else None,
    "join": lambda r: r.join(timeout=100),
    "join_native": lambda r: r.join_native(timeout=100),
}
assert double.delay(4).get(timeout=60) == 8
found, sent = {}, threading.Barrier(len(made) + 1)
def wait(name):
    try:
        result = made[name]()
        sent.wait(60)
        found[name] = waits.get(name, lambda r: r.get(timeout=100))(result)
    except Exception as exc:
        found[name] = f"{type(exc).__module__}.{type(exc).__name__}: {exc}"
threads = [threading.Thread(target=wait, args=(name,)) for name in made]
for one in threads: one.start()
sent.wait(60)
print("sent", flush=True)
for one in threads: one.join()
print(json.dumps(found))
"""
ONE, TWO = {"n": 1}, {"n": 2}
EXPECTED = {
    "chord": [0, 1, 2], "group": [ONE, TWO], "chain": [0, 1], "iterate": [0, 1], "collect": [TWO, [0, 1]],
    "join": [ONE, TWO], "join_native": [ONE, TWO], "plain": ONE,
}  # fmt: skip


@pytest.fixture
def worker(own_server: RedisServer) -> Iterator[Worker]:
    with Worker(own_server.url, service="tests.support.door_calls:Caller", name="restart") as made:
        yield made


def test_any_waiting_client_gets_its_result(own_server: RedisServer, worker: Worker) -> None:
    for _ in range(4):
        client = subprocess.Popen(
            [sys.executable, "-c", SCRIPT], env=environment(own_server.url), cwd=ROOT, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert client.stdout is not None
        assert client.stdout.readline() == "sent\n"
        time.sleep(random.uniform(0, 0.4))  # the moment of the fault
        own_server.command("CONFIG", "SET", "appendfsync", "always")
        own_server.kill()
        time.sleep(random.uniform(0, 1.5))  # its length
        own_server.start()
        out, err = client.communicate(timeout=110)
        assert client.returncode == 0, err
        assert json.loads(out.splitlines()[-1]) == EXPECTED, (err, worker.output[-3000:])
