"""A script that knows nothing but the server's URL calls endpoints and iterates over their streams."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.e2e.conftest import Stack
from tests.support.processes import ROOT, environment

SCRIPT = """
import asyncio, json, sys
from workers.agg import Worker
from dynamo_tasks import StreamResult

ask = {"prompt": "hi", "max_tokens": 8}
result = Worker.generate.delay(ask)
streamed = [chunk["text"] for chunk in result]
again = [chunk["text"] for chunk in StreamResult(result.id).stream()]

async def read():
    return [chunk["text"] async for chunk in Worker.generate.delay(ask)]

print(json.dumps({
    "queue": Worker.generate.id.queue, "streamed": streamed, "again": again, "asynchronous": asyncio.run(read()),
    "got": result.get(timeout=30), "state": result.state,
}))
"""


def _run(stack: Stack, script: str, **env: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", script]
    return subprocess.run(
        argv,
        env=environment(stack.server.url, **env),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_iterate_over_delay(stack: Stack) -> None:
    done = _run(stack, SCRIPT, DYNAMO_NAMESPACE=stack.namespace)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["queue"] == f"{stack.namespace}|Worker"
    assert len(found["streamed"]) > 1
    assert found["again"] == found["streamed"]
    assert "".join(found["asynchronous"]) == "".join(found["streamed"]) == found["got"]["text"]
    assert found["got"]["usage"]["completion_tokens"] == 8
    assert found["state"] == "SUCCESS"


def test_bad_requests_are_refused_by_their_field(stack: Stack) -> None:
    script = """
from workers.agg import Worker
from dynamo_tasks.errors import InvalidRequestError
try:
    Worker.generate.delay({"prompt": "hi", "max_tokens": -1}).get(timeout=30)
except Exception as exc:
    print(type(exc).__name__, getattr(exc, "param", None), "|", exc)
try:
    list(Worker.generate.delay({"prompt": "hi", "max_tokens": -1}))
except InvalidRequestError as exc:
    print(type(exc).__name__, exc.param)
"""
    done = _run(stack, script, DYNAMO_NAMESPACE=stack.namespace)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("InvalidRequestError")
    assert "max_tokens" in first
    assert second == "InvalidRequestError max_tokens"


def test_an_unknown_endpoint_lists_the_known_ones(stack: Stack) -> None:
    done = _run(
        stack, "from workers.agg import Worker\nWorker.generat.delay({})", DYNAMO_NAMESPACE=stack.namespace
    )
    assert done.returncode != 0
    assert "generate" in done.stderr.splitlines()[-1]


def test_settings_of_the_environment_that_are_wrong_are_named(stack: Stack) -> None:
    script = "from workers.agg import Worker\nWorker.generate.delay({})"
    done = _run(stack, script, DYNAMO_NAMESPACE="Not Allowed")
    assert done.returncode != 0
    assert "Not Allowed" in done.stderr.splitlines()[-1]
