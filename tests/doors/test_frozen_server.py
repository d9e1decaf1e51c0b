"""A server that takes connections and says nothing: each synchronous call ends, with an error, within seconds."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import ROOT, Worker, environment
from tests.support.server import RedisServer

SERVICE = "tests.support.door_calls:Caller"
SCRIPT = "tests.support.door_frozen"
COMMAND = str(Path(sys.executable).parent / "dynamo-tasks")
CELERY = [str(Path(sys.executable).parent / "celery"), "-A", "dynamo_tasks"]
SOON = 45.0
"""Seconds: an operation is tried for ten, and a chord is three of them; the rest is the machine's."""

SENDS = ("delay", "countdown", "group", "chord", "chain", "send_task", "plain", "beat")
LOOKS = ("state", "ready", "result", "record", "cancel", "revoke", "forget", "restore", "save")
ASKS = ("ping", "inspect")
WAITS = ("get", "group get", "chord get")
COMMANDS = {
    "status": [COMMAND, "status"],
    "call": [COMMAND, "call", "door.Caller.double", "4"],
    "tail": [COMMAND, "tail", "nobody"],
    "dead": [COMMAND, "dead", "list"],
    "purge": [COMMAND, "purge", "nobody", "--yes"],
    "celery call": [*CELERY, "call", "door.Caller.double", "-a", "[4]"],
    "celery inspect": [*CELERY, "inspect", "-t", "1", "ping"],
    "celery purge": [*CELERY, "purge", "-f"],
}


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Any]]]:
    """What a script had that was connected when the server froze, and one that came later; and commands."""
    with (
        RedisServer(tmp_path_factory.mktemp("frozen")) as server,
        Worker(server.url, service=SERVICE, name="frozen"),
    ):
        env = environment(server.url, DYNAMO_GRAPH=SERVICE)
        connected = _start([sys.executable, "-m", SCRIPT, "connected"], env)
        assert connected.stdout is not None
        assert connected.stdout.readline() == "connected\n"
        server.freeze()
        assert connected.stdin is not None
        connected.stdin.write("go\n")
        connected.stdin.flush()
        fresh = _start([sys.executable, "-m", SCRIPT, "fresh"], env)
        with ThreadPoolExecutor(4) as threads:  # each waits for itself
            told = [threads.submit(_told, one) for one in (connected, fresh)]
            commands = threads.map(lambda argv: _command(argv, env), COMMANDS.values())
            found = {"commands": dict(zip(COMMANDS, commands, strict=True))}
            found |= {name: one.result() for name, one in zip(("connected", "fresh"), told, strict=True)}
        yield found
        server.thaw()


def _start(argv: list[str], env: dict[str, str]) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(argv, env=env, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def _told(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=110)
    assert process.returncode == 0, err
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def _command(argv: list[str], env: dict[str, str]) -> tuple[float, int, str]:
    began = time.monotonic()
    done = subprocess.run(argv, env=env, cwd=ROOT, capture_output=True, text=True, timeout=110)
    return time.monotonic() - began, done.returncode, done.stderr or done.stdout


pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.mark.parametrize("client", ["connected", "fresh"])
@pytest.mark.parametrize("way", SENDS)
def test_a_call_is_an_operational_error(frozen: dict[str, dict[str, Any]], client: str, way: str) -> None:
    seconds, kinds, text = frozen[client][way]
    assert kinds[0] == "OperationalError", text
    assert seconds < SOON


@pytest.mark.parametrize("client", ["connected", "fresh"])
@pytest.mark.parametrize("way", [*LOOKS, *ASKS])
def test_a_look_is_an_error_of_the_connection(
    frozen: dict[str, dict[str, Any]], client: str, way: str
) -> None:
    seconds, kinds, text = frozen[client][way]
    assert {"ServerUnavailableError", "TimeoutError", "OperationalError"} & set(kinds), text
    assert seconds < SOON


@pytest.mark.parametrize("way", WAITS)
def test_who_waits_for_a_result_gets_his_own_timeout(frozen: dict[str, dict[str, Any]], way: str) -> None:
    seconds, kinds, _ = frozen["connected"][way]
    assert kinds[:2] == ["TimeoutError", "TaskError"]
    assert 2.0 <= seconds < SOON


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_ends(frozen: dict[str, dict[str, Any]], command: str) -> None:
    seconds, code, text = frozen["commands"][command]
    assert code not in (0, None), text
    assert seconds < 2 * SOON
    if not command.startswith("celery"):
        assert len(text.strip().splitlines()) == 1, text


def test_the_call_that_got_no_answer_ran_once_or_never(frozen: dict[str, dict[str, Any]]) -> None:
    """The same id sent again is the same request; who sends anew has two."""
    assert frozen["connected"]["again"][1] == frozen["connected"]["delay"][1]
