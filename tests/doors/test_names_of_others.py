"""Names of endpoints in a process that has nothing of them: the registry knows their queue."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import ROOT, Worker, environment
from tests.support.server import RedisServer

pytestmark = pytest.mark.slow

CALL = [
    str(Path(sys.executable).parent / "celery"),
    "-A",
    "dynamo_tasks",
    "call",
    "door.Caller.double",
    "-a",
    "[4]",
]
SCRIPT = """
import json
from celery import Celery, group
from dynamo_tasks import app, install
assert "door.Caller.double" not in app.tasks
double = lambda: app.signature("door.Caller.double", (4,))
told = {
    "send_task": app.send_task("door.Caller.double", [4]).get(timeout=60),
    "stream": list(app.send_task("door.Caller.count", [3])),
    "signature": double().delay().get(timeout=60),
    "group": group(double(), double()).apply_async().get(timeout=60),
    "chain": (double() | app.signature("door.Caller.double")).apply_async().get(timeout=60),
    "again": [app.send_task("door.Caller.double", [n]).get(timeout=60) for n in range(3)],
}
app.send_task("proj.tasks.mail", [1])
app.send_task("door.Caller.duoble", [1])
app.send_task("mail", [1])
print(json.dumps(told))
"""
EXPECTED = {
    "send_task": 8,
    "stream": [0, 1, 2],
    "signature": 8,
    "group": [8, 8],
    "chain": 16,
    "again": [0, 2, 4],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with (
        RedisServer(tmp_path_factory.mktemp("names")) as made,
        Worker(made.url, "-Q", "door|Caller", service="tests.support.door_calls:Caller", name="names"),
    ):
        yield made


def _run(server: RedisServer, argv: list[str]) -> subprocess.CompletedProcess[str]:
    env = environment(server.url)
    done = subprocess.run(argv, env=env, cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    return done


def test_they_go_to_the_queue_of_their_component(server: RedisServer) -> None:
    done = _run(server, [sys.executable, "-c", SCRIPT])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found == EXPECTED
    # What is no endpoint's goes where Celery sends it; what only looks like one is told of.
    assert server.command("LLEN", "dynamo-tasks") == b":3\r\n"
    told = [line for line in done.stderr.splitlines() if "queue.name_unknown" in line]
    assert len(told) == 1
    assert "endpoint=door.Caller.duoble queue=dynamo-tasks" in told[0]


def test_celery_call_finds_them(server: RedisServer) -> None:
    task_id = _run(server, CALL).stdout.strip()
    code = f"from dynamo_tasks import StreamResult; print(StreamResult({task_id!r}).get(timeout=60))"
    assert _run(server, [sys.executable, "-c", code]).stdout.strip() == "8"
