"""Endpoints under their names: every way that Celery has to call one and to look at its result, from a script."""

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

SERVICE = "tests.support.door_calls:Caller"
SCRIPT = "tests.support.door_calls"
CELERY = str(Path(sys.executable).parent / "celery")

GIVES: dict[str, Any] = {
    "delay": 8, "send_task": [0, 1, 2], "send_task kwargs": 8, "send_task positional": 8, "AsyncResult": [0, 1, 2],
    "endpoint AsyncResult": [0, 1, 2], "signature": 8, "endpoint signature": 8, "subtask": 8, "si": 8,
    "map": [2, 4, 6], "map stream": [[0], [0, 1]], "starmap": [2, 4], "chunks": [[2, 4], [6]], "apply": [0, 1, 2],
    "call": 8, "task call": 8, "keyword": 8, "keyword in a chain": [0, 1], "none taken": "pong",
    "default": ["hello you", "hello me"], "chain": [0, 1], "chain async": [0, 1], "chain of three": [0, 1, 2],
    "chord": [0, 1, 2], "group": [[0], [0, 1]], "forget": ["PENDING", False, "StreamExpiredError"],
    "looked at": ["SUCCESS"] * 2 + [True, True, False, [0, 1], [0, 1], None, True, [], None, True, [0, 1], [[0, 1]], 1],
    "then": [8], "restored": [[0, 1], [6], True], "copies": [[0]] * 4, "of a chain": [4, 2, 2, [2, 4]],
    "revoked group": [[True, True], True],
    "tasks": [f"door.Caller.{name}" for name in ("count", "double", "fail", "greet", "ping", "slow")],
}  # fmt: skip
REFUSES = {
    "wrong keyword": (
        "InvalidRequestError",
        "door.Caller.double takes one argument, 'x'; got the keyword 'y'",
    ),
    "wrong keyword by name": (
        "InvalidRequestError",
        "takes one argument, 'x'; got the keyword 'y'",
    ),
    "too many": ("InvalidRequestError", "door.Caller.double takes one argument, not 2"),
    "none given": ("InvalidRequestError", "door.Caller.double takes one argument, 'x': none was given"),
    "takes none": ("InvalidRequestError", "door.Caller.ping takes no argument"),
    "unknown": ("RequestNotFoundError", "'nobody'"),
    "unknown of a chain": ("RequestNotFoundError", "'nobody'"),
}
FAILS = (
    "fail get",
    "fail await",
    "fail iterate",
    "fail iterate async",
    "fail ignored",
    "failed chain",
    "failed chain get",
)


@pytest.fixture(scope="module")
def commands(redis_server: RedisServer) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """A worker, and what comes in beside it: the script, and Celery's own commands in fresh processes."""
    with Worker(redis_server.url, service=SERVICE, name="door", wait=False) as worker:
        env = environment(redis_server.url, DYNAMO_GRAPH=SERVICE)
        known = "from dynamo_tasks import app; print(app.tasks['door.Caller.count'].name)"
        worker.wait_ready()
        argv = {
            "script": [sys.executable, "-m", SCRIPT],
            "call": [CELERY, "-A", "dynamo_tasks", "call", "door.Caller.double", "-a", "[4]"],
            "fresh": [sys.executable, "-c", known],
        }
        started = {name: _start(one, env) for name, one in argv.items()}
        yield started
        for process in started.values():
            process.kill()


def _start(argv: list[str], env: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        argv, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _output(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    return out


@pytest.fixture(scope="module")
def outcomes(commands: dict[str, subprocess.Popen[str]]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = json.loads(_output(commands["script"]).splitlines()[-1])
    return found


@pytest.mark.parametrize("way", GIVES)
def test_a_way_to_call_gives_its_value(outcomes: dict[str, list[Any]], way: str) -> None:
    assert outcomes[way][1:] == [GIVES[way]]


@pytest.mark.parametrize("way", REFUSES)
def test_what_an_endpoint_does_not_take_is_one_clear_error(outcomes: dict[str, list[Any]], way: str) -> None:
    kind, text = REFUSES[way]
    _, kinds, message = outcomes[way]
    assert kinds[0] == kind
    assert text in message


@pytest.mark.parametrize("way", FAILS)
def test_each_way_of_waiting_raises_the_same(outcomes: dict[str, list[Any]], way: str) -> None:
    _, kinds, message = outcomes[way]
    assert kinds[0] == "KeyError"
    assert {"KeyError", "LookupError", "EndpointError", "DynamoError"} <= set(kinds)
    assert message == "'x'"


def test_a_fresh_process_knows_the_graph_it_is_configured_with(
    commands: dict[str, subprocess.Popen[str]],
) -> None:
    assert _output(commands["fresh"]).strip() == "door.Caller.count"


@pytest.mark.slow
def test_celerys_commands_know_the_names(
    redis_server: RedisServer, commands: dict[str, subprocess.Popen[str]]
) -> None:
    task_id = _output(commands["call"]).strip()
    env = environment(redis_server.url, DYNAMO_GRAPH=SERVICE)
    celery = [CELERY, "-A", "dynamo_tasks"]
    result = _start([*celery, "result", "-t", "door.Caller.double", task_id], env)
    registered = _start([*celery, "inspect", "-t", "20", "registered", "--json"], env)
    assert _output(result).strip() == "8"
    names = [name for found in json.loads(_output(registered)).values() for name in found]
    assert "door.Caller.count" in names


def test_a_plain_tasks_result_is_celerys_own() -> None:
    code = (
        "from dynamo_tasks import app\n"
        "def one(): return 1\n"
        "plain = app.task(name='x.plain')(one)\n"
        "from celery.result import AsyncResult\n"
        "from dynamo_tasks import StreamResult\n"
        "r = plain.AsyncResult('i')\n"
        "assert isinstance(r, AsyncResult) and not isinstance(r, StreamResult)\n"
        "assert isinstance(app.AsyncResult('i'), StreamResult) and isinstance(app.AsyncResult('i'), app.AsyncResult)\n"
    )
    env = environment("redis://127.0.0.1:1/0") | {"PYTHONWARNINGS": "error"}
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
