"""A server that refuses for a while is waited for: `serve` on an external server, as operators run it."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from benchmarks.undisturbed import undisturbed
from dynamo_tasks.runtime.inspect import snapshot
from tests.support import web
from tests.support.processes import Frontend, Worker, together, until
from tests.support.readers import MODEL, PACED
from tests.support.refusing import REFUSALS, RefusingServer, no_room
from tests.support.serve import Serve

pytestmark = pytest.mark.slow
ASK = {"model": MODEL, "prompt": "hi", "max_tokens": 2}
INSIDE = re.compile(r"script:|@user|SCRIPT KILL|Valkey is|Redis is|127\.0\.0\.1|\b[A-Z]{4,} ")
TOKENS = 200
WAITS = re.compile(r"store\.refused|connection=start")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RefusingServer]:
    with RefusingServer(tmp_path_factory.mktemp("refusing")) as server:
        yield server


@pytest.fixture
def serve(server: RefusingServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """One for each test: `serve` gives up a worker that ends five times in a row within ten seconds."""
    home = tmp_path_factory.mktemp("home")
    with Serve(home, *(f"--{one}" for one in PACED), DYNAMO_REDIS_URL=server.url) as serve:
        yield serve


def _text(events: list[tuple[str, str]]) -> str:
    assert events[-1][1] == "[DONE]", events[-1]
    return "".join(json.loads(data)["choices"][0]["text"] for _, data in events[:-1])


def _is_refused(serve: Serve) -> bool:
    """A new request gets a 503 that says when to come again, and nothing of the server's own words."""
    status, headers, body = web.ask(serve.port, "POST", "/v1/completions", ASK)
    if status == 200:
        return False
    error = body["error"]
    assert (status, error["type"]) == (503, "service_unavailable_error"), body
    assert int(headers["retry-after"]) >= 1
    assert not INSIDE.search(error["message"]), error
    assert web.look(serve.port, "/live")[0] == 200
    return True


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_killed_worker_starts_on_a_server_that_refuses(
    kind: str, server: RefusingServer, serve: Serve
) -> None:
    """`serve` keeps its frontend and the open stream; the worker waits, and continues the text."""
    prompt = f"told under {kind}"
    stream = web.events(
        serve.port, "POST", "/v1/completions", {**ASK, "prompt": prompt, "max_tokens": TOKENS, "stream": True}
    )
    got = [next(stream)]
    [worker] = [row for row in snapshot(server.url)["instances"] if row["component"] == "Worker"]
    seen = len(serve.output)
    with REFUSALS[kind](server):
        os.kill(worker["pid"], signal.SIGKILL)
        assert _is_refused(serve)
        if kind != "LOADING":  # that ends by itself
            until(lambda: _waits(serve.output[seen:]), 90, lambda: serve.output[seen:])
            assert _is_refused(serve)
    got += list(stream)
    assert [_text(got)] == undisturbed([prompt], TOKENS)
    until(lambda: not _is_refused(serve), 30, "served again")
    assert serve.output[seen:].count("starts again") == 1, serve.output[seen:]
    assert serve.alive


def _waits(output: str) -> bool:
    """Whether the worker that was started again says what it waits for."""
    return any(
        line.startswith("Worker") and WAITS.search(line)
        for line in output.partition("starts again")[2].splitlines()
    )


@pytest.mark.parametrize("kind", ["NOREPLICAS", "MISCONF", "BUSY", "READONLY"])
def test_a_worker_that_starts_meanwhile_waits_and_can_be_ended(kind: str, server: RefusingServer) -> None:
    with (
        REFUSALS[kind](server),
        Worker(server.url, settings=PACED, name="meanwhile", wait=False) as one,
        Worker(server.url, settings=PACED, name="ended", wait=False) as other,
    ):
        for log in (one.log, other.log):
            until(lambda log=log: WAITS.search(log.read_text()), 60, log.read_text)
        other.signal(signal.SIGTERM)
        until(lambda: not other.alive, 10, "it ends")
        assert one.alive, one.output
        assert "Traceback" not in one.output + other.output, one.output + other.output


def test_serve_itself_waits_for_a_server_that_reads_its_data(
    server: RefusingServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("later")
    with (
        REFUSALS["BUSY"](server),
        Serve(home, DYNAMO_REDIS_URL=server.url, wait=False) as serve,
    ):
        serve.line("server  ")
        assert "busy with a script; waiting" in serve.output
        serve.interrupt()


def test_a_server_without_room_for_connections(server: RefusingServer) -> None:
    """Who is connected serves on; who starts, or has lost its connections, waits for room, and says so calmly."""
    inside, frontend = Worker(server.url, settings=PACED, name="inside"), Frontend(server.url)
    with ExitStack() as late, together(inside, frontend):
        with no_room(server) as cut:
            outside = late.enter_context(Worker(server.url, settings=PACED, name="outside", wait=False))
            more = late.enter_context(Frontend(server.url, ready=""))
            for one in (outside, more):
                until(lambda one=one: "store.refused" in one.output, 60, lambda one=one: one.output)
            assert frontend.request("POST", "/v1/completions", ASK)[0] == 200
            cut()
            until(lambda: frontend.request("POST", "/v1/completions", ASK)[0] == 503, 30, "it to be cut off")
            for one in (inside, frontend):
                until(lambda one=one: "max number of clients" in one.output, 30, lambda one=one: one.output)
        outside.wait_ready()
        for http in (frontend, more):
            until(lambda http=http: http.get("/ready")[0] == 200, 60, lambda http=http: http.output)
            assert http.request("POST", "/v1/completions", ASK)[0] == 200
        for one in (inside, frontend, outside, more):
            assert "Traceback" not in one.output, one.output
            assert one.output.count("\n") < 150, one.output
