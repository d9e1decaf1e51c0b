"""Who first asks for a request while the server is away waits as those do who asked before."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.processes import ROOT, Worker, environment, until
from tests.support.server import RedisServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SERVICE = "tests.support.door_calls:Caller"
SEEN = [0, 1, 2]
EXPECTED = {
    "stream": SEEN, "iterate": SEEN, "astream": SEEN, "get": 8, "get of a stream": SEEN, "await": 8,
    "by its task": 8, "set": [8, SEEN], "runtime": 8,
}  # fmt: skip
OUTAGES = ("away", "frozen", "refuses")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    options = ("--appendfsync", "always")
    with (
        RedisServer(tmp_path_factory.mktemp("joining"), *options) as made,
        Worker(made.url, service=SERVICE, name="joining"),
    ):
        yield made


def _begin(server: RedisServer, kind: str) -> None:
    if kind == "away":
        server.kill()
    elif kind == "frozen":
        server.freeze()
    else:
        server.command("CONFIG", "SET", "min-replicas-to-write", "1")


def _end(server: RedisServer, kind: str) -> None:
    if kind == "away":
        server.start()
    elif kind == "frozen":
        server.thaw()
    else:
        server.command("CONFIG", "SET", "min-replicas-to-write", "0")


def _ids(server: RedisServer) -> list[str]:
    code = (
        "from tests.support.door_calls import Caller as C; a, b = C.count.delay(3), C.double.delay(4); "
        "a.get(timeout=60); b.get(timeout=60); print(a.id, b.id)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(server.url), cwd=ROOT, capture_output=True, text=True,
        timeout=110, check=True,
    )  # fmt: skip
    return done.stdout.split()


@pytest.mark.parametrize("client", ["fresh", "connected"])
@pytest.mark.parametrize("outage", OUTAGES)
def test_it_is_waited_for(server: RedisServer, outage: str, client: str) -> None:
    argv = [sys.executable, "-m", "tests.support.door_joining", client, *_ids(server)]
    pipe = subprocess.PIPE
    script = subprocess.Popen(
        argv, env=environment(server.url), cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )
    assert script.stdin is not None
    assert script.stdout is not None
    assert script.stdout.readline() == "begun\n"
    _begin(server, outage)
    try:
        script.stdin.write("go\n")
        script.stdin.flush()
        impatient: dict[str, Any] = json.loads(script.stdout.readline() or "{}")
    finally:
        _end(server, outage)
    assert impatient
    out, err = script.communicate(timeout=110)
    assert script.returncode == 0, err
    found = json.loads(out.splitlines()[-1])
    if outage == "refuses":  # it may have said no to a new call, at once
        found.pop("runtime")
    assert {name: told[1] for name, told in found.items()} == {name: EXPECTED[name] for name in found}, err
    if outage != "refuses":  # which says no to what writes
        _check_impatient(impatient)


def _check_impatient(found: dict[str, Any]) -> None:
    """Each in its own time, whoever else waits."""
    assert found["get"][1][0] == "TimeoutError"
    assert found["get"][0] < 30
    for name in ("look", "runtime"):
        assert found[name][1][0] == "ServerUnavailableError", found[name]
        assert found[name][0] < 30


def test_a_wrong_password_is_reported_at_once_and_a_right_one_later(own_server: RedisServer) -> None:
    """What waiting does not mend is not waited for; and the next one tries anew."""
    code = (
        "from dynamo_tasks import StreamResult\n"
        "for _ in range(2):\n"
        "    try: list(StreamResult('nobody'))\n"
        "    except Exception as exc: print(type(exc).__name__, exc, flush=True)\n"
        "    input()\n"
    )
    own_server.command("CONFIG", "SET", "requirepass", "secret")
    script = subprocess.Popen(
        [sys.executable, "-c", code], env=environment(own_server.url), cwd=ROOT, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert script.stdin is not None
    assert script.stdout is not None
    first = script.stdout.readline()
    assert "asks for a password" in first
    until(lambda: b"OK" in _allowed(own_server), 10)
    script.stdin.write("\n")
    script.stdin.flush()
    assert script.stdout.readline().startswith("RequestNotFoundError")
    script.communicate("\n", timeout=30)


def _allowed(server: RedisServer) -> bytes:
    with socket.create_connection((server.host, server.port), timeout=5) as sock:
        sock.sendall(b"AUTH secret\r\n")
        sock.recv(100)
        sock.sendall(b'CONFIG SET requirepass ""\r\n')
        return sock.recv(100)
