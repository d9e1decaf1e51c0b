"""A machine is gone, or cannot be reached without anybody being told; a worker is ended by the kernel."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from dynamo_tasks.frontend.app import create_app
from dynamo_tasks.frontend.http.connection import ConnectionLimits
from dynamo_tasks.frontend.http.server import HttpServer
from dynamo_tasks.store.client import close_shared
from dynamo_tasks.store.registry import LEASE_TTL
from tests.support.faults import by_load, kill_frontend, kill_worker, memory_cage
from tests.support.frontend_fakes import FakeGateway, claim, text
from tests.support.network import Machine
from tests.support.processes import Frontend, Process, Worker, until
from tests.support.queue import Lab
from tests.support.readers import MODEL, PACED, check, start
from tests.support.server import RedisServer

pytestmark = pytest.mark.slow
ASK = {"model": MODEL, "prompt": "hi", "max_tokens": 2}


@pytest.fixture
def entered() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def _worker(entered: ExitStack, url: str, name: str, prefix: tuple[str, ...] = ()) -> Worker:
    return entered.enter_context(Worker(url, settings=PACED, name=name, prefix=prefix, wait=False))


def _frontend(entered: ExitStack, url: str, workers: int, ready: str = "/ready") -> Frontend:
    settings = (f"Worker.ServiceArgs.workers={workers}",)
    return entered.enter_context(Frontend(url, settings=settings, ready=ready))


def _calm(*processes: Process) -> None:
    for process in processes:
        assert process.alive, process.output
        assert "Traceback" not in process.output, process.output


def test_machine_gone(entered: ExitStack, own_server: RedisServer) -> None:
    """† Two of three workers vanish at once, and a frontend with them: only the lease counts."""
    url = own_server.url
    workers = [_worker(entered, url, name) for name in "abc"]
    two = _frontend(entered, url, 3, ready="")
    one = _frontend(entered, url, 3)
    until(lambda: two.get("/ready")[0] == 200, what="the second frontend")
    readers = start(one, two, n=20, tokens=250)
    *gone, left = by_load(url, workers, 20)
    at = time.monotonic()
    for worker in gone:
        worker.signal(signal.SIGKILL)
    kill_frontend(one)
    for worker in gone:
        kill_worker(worker)
    check(readers, 40.0)
    assert LEASE_TTL - 1.0 < max(reader.gap(at) for reader in readers) <= LEASE_TTL + 1.0
    assert all(reader.resumed for reader in readers)
    # Behind the first one's lease the second one is a single one that is absent.
    assert "by=lease" in left.output + two.output
    _calm(left, two)
    close_shared(url)


def test_a_machine_whose_packets_are_dropped(entered: ExitStack, tmp_path: Path) -> None:
    """Its connections look open at both ends. Its streams go on elsewhere; back again, it is fenced, and serves."""
    machine = entered.enter_context(Machine())
    server = entered.enter_context(RedisServer(tmp_path, "--protected-mode", "no", host=machine.here))
    far = _worker(entered, server.url, "far", machine.prefix)
    far.wait_ready()
    near = _worker(entered, server.url, "near")
    http = _frontend(entered, server.url, 2)
    readers = start(http, n=16, tokens=200)
    assert far in by_load(server.url, [far, near], 16)
    at = time.monotonic()
    machine.cut()
    # Some of these are popped into a socket that leads nowhere.
    more = start(http, n=8, tokens=20, at_least=0)
    check(readers)
    check(more)
    assert LEASE_TTL - 1.0 < max(reader.gap(at) for reader in readers) <= LEASE_TTL + 1.0
    until(
        lambda: far.output.count("store.connection_lost") >= 4, 20.0, "half-open connections to be given up"
    )
    machine.mend()
    until(lambda: http.get("/ready")[0] == 200, 5.0, "registered again")
    fresh = start(http, n=16, tokens=30)
    check(fresh)
    _calm(far, near, http)


def test_a_server_whose_packets_are_dropped(entered: ExitStack, tmp_path: Path) -> None:
    """For everybody, and for longer than a lease: refused meanwhile, then all goes on; nobody is taken for dead."""
    machine = entered.enter_context(Machine())
    server = entered.enter_context(
        RedisServer(tmp_path, "--protected-mode", "no", host=machine.there, prefix=machine.prefix)
    )
    workers = [_worker(entered, server.url, name) for name in "ab"]
    http = _frontend(entered, server.url, 2)
    readers = start(http, n=16, tokens=300)
    at = time.monotonic()
    machine.cut()
    asked = time.monotonic()
    status, headers, _ = http.request("POST", "/v1/completions", ASK)
    assert (status, int(headers["retry-after"]) >= 1) == (503, True)
    assert time.monotonic() - asked < 3.5
    half_open = [
        f"connection_lost connection=dynamo-tasks:{name}" for name in ("writer", "commands", "presence")
    ]
    until(
        lambda: all(line in workers[0].output for line in half_open),
        20.0,
        "half-open connections to be given up",
    )
    assert time.monotonic() - at < 12.0
    machine.mend()
    back = time.monotonic()
    until(lambda: http.get("/ready")[0] == 200, 10.0, "all registered again")
    assert time.monotonic() - back < 4.0, "a connect that is under way may wait for its time-out"
    until(lambda: http.request("POST", "/v1/completions", ASK)[0] == 200, 5.0, "served again")
    check(readers)
    for process in (*workers, http):
        assert "instance.died" not in process.output, process.output
    _calm(*workers, http)


CLIENT = """
import socket, sys, time
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])))
body = b'{"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "stream": true}'
sock.sendall(b"POST /v1/chat/completions HTTP/1.1\\r\\nhost: x\\r\\ncontent-length: %d\\r\\n\\r\\n" % len(body) + body)
print(sock.recv(100), flush=True)
time.sleep(300)
"""


def test_a_client_whose_packets_are_dropped(entered: ExitStack) -> None:
    """Its stream is left when its time is over, not when its text is: nobody reads that."""
    machine = entered.enter_context(Machine())
    gateway = FakeGateway(lambda _: [claim()])
    limits = ConnectionLimits(write_timeout=2.0)

    async def main() -> float:
        server = HttpServer(create_app(gateway), machine.here, 0, streams_end_within=0.1, limits=limits)
        await server.start()
        argv = [*machine.prefix, sys.executable, "-c", CLIENT, machine.here, str(server.port)]
        client = entered.enter_context(Process(argv, dict(os.environ), name="client"))
        await gateway.submitted.wait()
        log, stream = next(iter(gateway.logs.values())), gateway.streams[0]
        log.add(text(1, "a"))
        await asyncio.to_thread(until, lambda: "200 OK" in client.output, 20.0, "its first bytes")
        at = time.monotonic()
        machine.cut()
        async with asyncio.timeout(30):
            while not stream.closed.is_set():
                log.add(text(len(log.events), "a"))
                await asyncio.sleep(0.05)
        await server.stop()
        return time.monotonic() - at

    assert asyncio.run(main()) < 15.0


def test_oom_kill(entered: ExitStack, own_server: RedisServer) -> None:
    """The kernel ends a worker that takes too much memory: its streams go on."""
    lab = Lab(own_server, "oom")
    caged = entered.enter_context(
        lab.worker(name="caged", prefix=entered.enter_context(memory_cage(400 << 20)))
    )
    (lease,) = lab.redis.smembers(lab.keys.leases)
    other = entered.enter_context(lab.worker(name="other"))
    queue = f"oom|Lab.count-{lease}"
    streams = [lab.call("count", {"n": 150, "delay": 0.02}, queue=queue) for _ in range(4)]
    iterators = [iter(stream) for stream in streams]
    heads = [[next(one) for _ in range(5)] for one in iterators]
    hog = lab.call("hog", {}, queue=f"oom|Lab.hog-{lease}")
    assert caged.popen.wait(20) == -signal.SIGKILL
    assert [head + list(one) for head, one in zip(heads, iterators, strict=True)] == [list(range(150))] * 4
    assert hog.get(timeout=30) == 0
    assert [lab.record(stream.id)["attempts"] for stream in streams] == ["2"] * 4
    _calm(other)
    lab.close()
