"""A dependency by an address that nobody serves: who makes its calls is told so, and who is served instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.processes import until
from tests.support.server import RedisServer
from tests.support.stranger import Folder

pytestmark = pytest.mark.slow

FRONT = """
from dynamo_tasks import depends, dynamo_endpoint, service

@service(dynamo={"namespace": "nobody"})
class Front:
    teller = depends("dyn://nobody.Teler.tell")

    @dynamo_endpoint
    async def ask(self, request: int) -> int:
        return await self.teller.tell(request)

@service(dynamo={"namespace": "nobody"})
class Teller:
    @dynamo_endpoint
    async def tell(self, request: int) -> int:
        return request + 1

@service(dynamo={"namespace": "nobody", "name": "Teler"})
class Late(Teller.inner):
    pass
"""
ASK = """
from front import Front
print(Front.ask.delay(1).get(timeout=90))
"""


def test_who_waits_for_nobody_is_notified(redis_server: RedisServer, tmp_path: Path) -> None:
    folder = Folder(tmp_path, front=FRONT, ask=ASK)
    env = {"DYNAMO_REDIS_URL": redis_server.url}
    worker = ("-A", "dynamo_tasks", "worker", "-l", "info", "--service")
    with (
        folder.celery(*worker, "front:Front", "-n", "front@%h", **env) as front,
        folder.celery(*worker, "front:Teller", "-n", "teller@%h", **env),
        folder.start("python", "ask.py", wait=False, **env) as asking,
    ):
        until(lambda: "queue.nobody_serves" in front.output, 60, lambda: front.output)
        line = next(line for line in front.output.splitlines() if "queue.nobody_serves" in line)
        assert "nobody.Teler.tell" in line
        assert "did you mean 'nobody.Teller.tell'" in line
        assert asking.alive
        with folder.celery(*worker, "front:Late", "-n", "late@%h", **env):
            assert asking.popen.wait(60) == 0
            assert asking.output.split() == ["2"]
