"""Flower with our application: never open by default."""

from __future__ import annotations

import http.client
import sys

import pytest

from tests.support.processes import Process, environment, until
from tests.support.server import RedisServer, free_port


def start(url: str, port: int, *arguments: str, **env: str) -> Process:
    argv = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "dynamo_tasks",
        "flower",
        f"--port={port}",
        "--address=127.0.0.1",
    ]
    return Process([*argv, *arguments], environment(url, **env), name="flower")


def status(port: int, path: str = "/") -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def test_without_a_login_it_does_not_start(redis_server: RedisServer) -> None:
    port = free_port()
    with start(redis_server.url, port) as flower:
        assert flower.popen.wait(30) == 2
        assert "--basic-auth=USER:PASSWORD" in flower.output
        assert "Traceback" not in flower.output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env", "expected"), [({"FLOWER_BASIC_AUTH": "me:x"}, 401), ({"FLOWER_UNAUTHENTICATED_API": "true"}, 200)]
)
def test_with_a_login_it_asks_for_it(redis_server: RedisServer, env: dict[str, str], expected: int) -> None:
    port = free_port()
    with start(redis_server.url, port, **env) as flower:
        until(lambda: status(port) or not flower.alive, 30, "Flower listens")
        assert status(port, "/workers") == expected, flower.output
