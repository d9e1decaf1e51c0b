"""A server, a Sentinel or a resolver that keeps silent: asynchronous calls and commands end within seconds."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from dynamo_tasks import DistributedRuntime
from dynamo_tasks.errors import ServerUnavailableError
from tests.support.processes import ROOT, environment
from tests.support.server import RedisServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SOON = 40.0
"""Seconds: 5 for a connection, 10 for an operation; the rest is the machine's."""
SILENT = {
    "plain": "redis://{at}/0", "tls": "rediss://{at}/0", "sentinel": "sentinel://{at}/0?master_name=main",
    "sentinel over tls": "sentinel://{at}/0?master_name=main&ssl_cert_reqs=none",
}  # fmt: skip


@pytest.fixture(scope="module")
def silent() -> Iterator[str]:
    """Where connections are taken and nothing is answered."""
    with socket.create_server(("127.0.0.1", 0), backlog=200) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


async def _ended(call: Awaitable[Any]) -> tuple[float, str]:
    began = time.monotonic()
    try:
        async with asyncio.timeout(2 * SOON):
            await call
    except Exception as exc:  # noqa: BLE001 - it is what is tested
        return time.monotonic() - began, type(exc).__name__
    return time.monotonic() - began, ""


@pytest.mark.parametrize("kind", SILENT)
def test_nobody_connects_without_end(silent: str, kind: str) -> None:
    seconds, error = asyncio.run(_ended(DistributedRuntime.create(SILENT[kind].format(at=silent))))
    assert error == "ServerUnavailableError"
    assert seconds < SOON


@pytest.mark.parametrize("kind", SILENT)
def test_commands_and_calls_end(silent: str, kind: str) -> None:
    env = environment(SILENT[kind].format(at=silent))
    scripts = {
        "status": ["-m", "dynamo_tasks", "status"],
        "tail": ["-m", "dynamo_tasks", "tail", "nobody"],
        "delay": ["-c", "from tests.support.door_calls import Caller; Caller.double.delay(4)"],
        "record": ["-c", "from dynamo_tasks import StreamResult; StreamResult('nobody').record()"],
    }
    began = time.monotonic()
    running = {
        name: subprocess.Popen([sys.executable, *argv], env=env, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for name, argv in scripts.items()
    }
    said = {name: one.communicate(timeout=110)[1] for name, one in running.items()}
    assert time.monotonic() - began < 2 * SOON
    assert all(one.returncode for one in running.values())
    assert "OperationalError" in said["delay"]
    assert "ServerUnavailableError" in said["record"]
    assert "Traceback" not in said["status"] + said["tail"]


def test_calls_on_a_frozen_server_end(own_server: RedisServer) -> None:
    """Of a program that is connected; nothing is told of what waits by design, as the streams that are open."""

    async def ended() -> dict[str, tuple[float, str]]:
        async with await DistributedRuntime.create(own_server.url) as runtime:
            component = runtime.namespace("door").component("Caller")
            client = await component.endpoint("double").client()
            ways: dict[str, Callable[[], Awaitable[Any]]] = {
                "generate": lambda: anext(client.generate(4)),
                "call": lambda: client(4).result(),
                "attach": lambda: client.attach("nobody"),
                "client": lambda: runtime.namespace("other").component("C").endpoint("e").client(),
                "instances": component.instances,
                "of the namespace": runtime.namespace("door").instances,
                "publish": lambda: component.publish("topic", 1),
                "scrape": component.scrape_stats,
                "create": lambda: DistributedRuntime.create(own_server.url),
            }
            own_server.freeze()
            try:
                found = await asyncio.gather(*(_ended(way()) for way in ways.values()))
            finally:
                own_server.thaw()
            return dict(zip(ways, found, strict=True))

    for way, (seconds, error) in asyncio.run(ended()).items():
        assert error == ServerUnavailableError.__name__, way
        assert seconds < SOON, way


def test_a_resolver_that_keeps_silent_holds_up_nobody() -> None:
    """Neither the command, nor its end."""
    code = (
        "import socket, sys, time\n"
        "known = socket.getaddrinfo\n"
        "def asked(host, *a, **k):\n"
        "    time.sleep(150 if host == 'redis.example' else 0)\n"
        "    return known(host, *a, **k)\n"
        "socket.getaddrinfo = asked\n"
        "from dynamo_tasks.serve.cli import main\n"
        "sys.argv = ['dynamo-tasks', 'status']\n"
        "main()\n"
    )
    env = environment("redis://redis.example:6379/0")
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True, timeout=SOON
    )
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
