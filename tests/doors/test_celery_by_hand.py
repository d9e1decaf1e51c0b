"""Celery's commands as they are typed in a folder with a schedule, a service and plain tasks."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from tests.support.processes import together, until
from tests.support.promises import in_time
from tests.support.server import RedisServer
from tests.support.stranger import Folder, Program

SCHEDULE = """
SCHEDULE = {"often": {
    "task": "byhand.Nobody.hear", "schedule": 0.2, "args": [None],
    "options": {"queue": "byhand|Nobody", "expires": 3600},
}}
"""
SERVICE = """
import asyncio
from celery.exceptions import Ignore, Reject
from dynamo_tasks import dynamo_endpoint, service

KINDS = {"exit": SystemExit, "interrupt": KeyboardInterrupt, "ignore": Ignore, "reject": Reject}

@service(dynamo={"namespace": "byhand"})
class W:
    @dynamo_endpoint
    async def leaves(self, how: str) -> dict:
        raise KINDS[how]("by hand")

    @dynamo_endpoint
    async def streams(self, how: str):
        if how == "slow":
            for number in range(40):
                yield number
                await asyncio.sleep(0.1)
            return
        raise KINDS[how]("by hand")

    @dynamo_endpoint
    def blocks(self, how: str) -> dict:
        raise KINDS[how]("by hand")
"""
PLAIN = """
from dynamo_tasks import app
from svc import KINDS

@app.task
def plain(how):
    raise KINDS[how]("by hand")
"""
CLIENT = """
import json, time
from plain import plain
from svc import W

def outcome(call, how, timeout=40):
    result = call.delay(how)
    began = time.monotonic()
    try:
        return [repr(result.get(timeout=timeout)), time.monotonic() - began]
    except Exception as exc:
        return [f"{type(exc).__name__}: {exc}", time.monotonic() - began]

told = {"first": outcome(W.leaves, "ignore", 90)}
for name, call in {"plain": plain, "leaves": W.leaves, "streams": W.streams, "blocks": W.blocks}.items():
    for how in ("exit", "interrupt", "reject", "ignore"):
        if (name, how) not in (("plain", "ignore"), ("plain", "reject")):
            told[f"{name} {how}"] = outcome(call, how)
told["iterated"] = [list(W.leaves.delay("ignore")), list(W.streams.delay("ignore"))]
print(json.dumps(told))
"""
SLOW = """
from svc import W
result = W.streams.delay("slow")
values = iter(result)
print("first", next(values), flush=True)
print("rest", [*values][-1], result.get(timeout=20)[-1], flush=True)
"""


class Place(NamedTuple):
    folder: Folder
    env: dict[str, str]
    beat: Program
    worker: Program


@pytest.fixture(scope="module")
def place(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = Folder(tmp_path_factory.mktemp("byhand"), svc=SERVICE, plain=PLAIN, client=CLIENT, slow=SLOW)
    (folder.path / "beat").mkdir()
    (folder.path / "beat" / "schedule.py").write_text(SCHEDULE)
    env = {"DYNAMO_REDIS_URL": redis_server.url.removesuffix("0") + "10"}
    beat = folder.celery("-A", "dynamo_tasks", "beat", "-l", "info", ready="due task often", **env)
    ours = ("-A", "plain", "worker", "--service", "svc:W", "-l", "warning")
    worker = folder.celery(*ours, "-B", "-s", "embedded", ready="[queues]", **env)
    with together(beat, worker):
        yield Place(folder, env, beat, worker)


@pytest.fixture(scope="module")
def outcomes(place: Place) -> dict[str, Any]:
    """What came of each call of the client's, and after how many seconds."""
    told: dict[str, Any] = place.folder.python("client.py", **place.env)
    assert place.worker.alive
    return told


@pytest.mark.parametrize("where", ["plain", "leaves", "streams", "blocks"])
@pytest.mark.parametrize(("how", "name"), [("exit", "SystemExit"), ("interrupt", "KeyboardInterrupt")])
def test_who_wants_to_end_the_process_ends_alone(
    outcomes: dict[str, Any], where: str, how: str, name: str
) -> None:
    assert f"raised {name}: by hand" in outcomes[f"{where} {how}"][0]


@pytest.mark.parametrize("where", ["leaves", "streams", "blocks"])
def test_ignore_is_reported_at_once(place: Place, outcomes: dict[str, Any], where: str) -> None:
    first = iter([outcomes])

    def seconds() -> float:
        told = next(first, None) or place.folder.python("client.py", **place.env)
        value, took = told[f"{where} ignore"]
        assert value == "None"
        return float(took)

    in_time(seconds, 0.9)  # who asked the ledger would have waited for a second


@pytest.mark.parametrize("where", ["leaves", "streams", "blocks"])
def test_reject_is_a_failure(outcomes: dict[str, Any], where: str) -> None:
    assert "by hand" in outcomes[f"{where} reject"][0]


def test_what_is_ignored_has_no_values(outcomes: dict[str, Any]) -> None:
    assert outcomes["iterated"] == [[None], []]


def test_beat_reads_the_schedule_of_its_folder_and_two_signals_are_one(place: Place) -> None:
    for _ in range(2):
        place.beat.signal(signal.SIGTERM)
    assert place.beat.popen.wait(20) == 0, place.beat.output
    assert "Traceback" not in place.beat.output


def test_a_worker_with_beat_sends_what_is_due(place: Place, redis_server: RedisServer) -> None:
    number = place.env["DYNAMO_REDIS_URL"].rpartition("/")[2]

    def length() -> int:
        return int(
            redis_server.command(
                "EVAL", f"redis.call('SELECT', {number}) return redis.call('LLEN', 'byhand|Nobody')", "0"
            )[1:]
        )

    before = length()
    until(lambda: length() > before + 2, 30, lambda: place.worker.output)


def test_two_signals_in_an_instant_are_one_warm_shutdown(place: Place, outcomes: dict[str, Any]) -> None:
    with place.folder.start("python", "slow.py", ready="first", **place.env) as client:
        for _ in range(2):
            place.worker.signal(signal.SIGTERM)
        assert place.worker.popen.wait(40) == 0, place.worker.output
        assert client.popen.wait(20) == 0, client.output
        assert "rest 39 39" in client.output
    assert "Cold" not in place.worker.output
    assert "INFO" not in place.worker.output  # of -l warning
